"""The loaded parts of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flashnas.executors.job import UserEvaluator, evaluator_name
from flashnas.latency.certificate import Certificate
from flashnas.latency.costs import Costs, OwnCosts, TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.prediction import LatencyModel
from flashnas.reuse.known import KnownRuns
from flashnas.search import ALGORITHMS, SearchAlgorithm, algorithm_class, sampler_name
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a search is made of.

    recipe: of the trainings; None where an evaluator scores, or nothing is trained. certificate: what the
    table's validation says of its predictions, if a confidence is asked for. timing: how the finalists are
    timed (`flashnas.profiling`), or None. known: the networks of earlier runs that the search starts from, or
    None. note: receives lines for the user while parts are loaded. notes: lines on how networks are ranked,
    once nothing is wrong. started: by time.monotonic.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    sampler: str | type[SearchAlgorithm]
    recipe: Recipe | None = None
    evaluator: UserEvaluator | None = None
    certificate: Certificate | None = None
    timing: Any = None
    known: KnownRuns | None = None
    note: Callable[[str], None] = field(default=lambda _: None, repr=False)
    notes: list[str] = field(default_factory=list)
    started: float = 0.0

    @property
    def model(self) -> LatencyModel | None:
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    @property
    def sampler_name(self) -> str:
        return sampler_name(self.sampler)

    @property
    def function_names(self) -> tuple[str | None, str | None]:
        """Of the user's evaluator and cost function."""
        function = self.costs.function if isinstance(self.costs, OwnCosts) else None
        return (None if self.evaluator is None else evaluator_name(self.evaluator),
                None if function is None else evaluator_name(function))

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        own = () if self.sampler in ALGORITHMS.shipped else (("sampler", algorithm_class(self.sampler)),)
        return *own, ("space", self.space)
