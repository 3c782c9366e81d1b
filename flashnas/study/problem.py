"""The problem of a search: what is searched, for what, within which limits, and what is known of it.
Nothing of it changes once it is loaded (study/load.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.latency.fitting import Costs, Fitter, TableCosts
from flashnas.latency.prediction import LatencyModel
from flashnas.samplers import SAMPLERS, Sampler, sampler_class
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.study.full_training import FullTraining
from flashnas.study.scorer import EvidenceScorer, Scorer

if TYPE_CHECKING:
    from flashnas.run_folder.earlier_runs import EarlierRuns
    from flashnas.study.trainings import Trainings
    from flashnas.training.recipe import Recipe


def planned(config: SearchConfig, costs: Costs, tokens: float | None = None) -> FullTraining:
    """The full training that is planned. tokens: of a user's own scorer."""
    training = FullTraining(
        tokens=config.planned_tokens if tokens is None else tokens,
        hours=config.train_hours,
        utilisation=config.train_utilisation,
        context=config.train_context,
        count=config.full_trainings,
    )
    return training.on(costs.model.table.device) if isinstance(costs, TableCosts) else training


Note = Callable[[str], None]
Baselines = list[tuple[str, Any | None]]
BAYES = "bayes"  # the acquisition, where networks of flashnas are trained
PROPOSALS = 9_000  # genotypes of a scored search, of a space that is not listed


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One search, with everything loaded and checked.

    fitter: fits widths to the budgets. objectives: all minimised as `point` does (trials/trial.py), the
    one that ranks first. scorer: ranks the networks; None where an evaluator's loss does.
    min_recall: networks of which less is expected are left out. sampler: that is named; None: the
    default. train_each: whether every network that the sampler proposes is trained, because nothing
    else ranks, or the user named it. proposals: genotypes that are proposed at most. trainings:
    None where nothing is trained. earlier: runs that the search starts from. baselines: that are
    trained beside the trials: label, and network or None where no width meets the budgets. notes:
    lines on how networks are ranked. started: by time.monotonic. aim: the model of `as_good_as`,
    with the vocabulary of the space. target: genotype and network of the cheapest one that is as
    good. likely: the cheapest one that is so with a high probability; empty if none is.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    objectives: tuple[str, ...]
    sampler: str | type[Sampler] | None
    scorer: Scorer | None
    min_recall: float | None
    train_each: bool
    proposals: int
    trainings: Trainings | None
    earlier: EarlierRuns | None
    baselines: Baselines
    notes: list[str]
    started: float
    aim: Any = None
    target: tuple[Any, Any] | None = None
    likely: Sequence[Any] = ()

    @property
    def model(self) -> LatencyModel | None:
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    @property
    def training(self) -> FullTraining:
        """That the user plans, in full."""
        if isinstance(self.scorer, EvidenceScorer):
            return self.scorer.training
        tokens = None if self.scorer is None else self.scorer.tokens
        return planned(self.config, self.costs, tokens)

    @property
    def recipe(self) -> Recipe | None:
        return None if self.trainings is None else self.trainings.recipe

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        things = ("space", self.space), ("scorer", self.scorer)
        if self.sampler is None or self.sampler in SAMPLERS.shipped:
            return things
        return ("sampler", sampler_class(self.sampler)), *things
