"""Scores that nothing has to be trained for: of a bench, and of earlier runs that a search starts
from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, RunError
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import Dataset
from flashnas.executors.job import UserEvaluator, evaluator_name
from flashnas.reuse.earlier_runs import EarlierRuns, difference, training, training_of
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Scores:
    """What a bench and earlier runs know in one search. earlier: the earlier runs, or None.
    with_metrics: a score of theirs has its metrics, since no cost function gives them. recipe,
    dataset: of the trainings; None where an evaluator scores, of which a bench knows nothing."""

    config: SearchConfig
    earlier: EarlierRuns | None
    with_metrics: bool
    recipe: Recipe | None = None
    dataset: Dataset | None = None

    @property
    def bench(self) -> Answers | None:
        """What a bench answers, or None."""
        return self._answers if isinstance(self._answers, Answers) else None

    def no_bench(self) -> str:
        """Why no bench answers, in words; empty if one does or none is asked. Raises BenchError if
        the bench that the user names cannot be read, or answers nothing."""
        answers = self._answers
        if isinstance(answers, Answers):
            return ""
        if answers and self.config.bench_table is not None:
            raise BenchError(
                f"bench {self.config.bench_table}: answers nothing in this search: {answers}"
            )
        return answers

    @functools.cached_property
    def _answers(self) -> Answers | str:
        """What a bench answers, or why nothing; empty where there is none to ask."""
        config, dataset = self.config, self.dataset
        if self.recipe is None or dataset is None or not config.bench:
            return ""
        answers = find_answers(
            config.bench_table,
            self.recipe,
            dataset=dataset.digest,
            vocab=dataset.vocab,
            seed=config.seed,
        )
        return "" if answers is None else answers

    def check(self, evaluator: UserEvaluator | None) -> None:
        """Raise BenchError if the bench that the user names answers nothing, and RunError if the
        earlier runs trained otherwise than this search does."""
        self.no_bench()
        if self.earlier is None or not self.config.trials:
            return
        own = training(
            self.recipe,
            None if self.dataset is None else self.dataset.digest,
            self.config.seed,
            None if evaluator is None else evaluator_name(evaluator),
        )
        if reason := difference(
            training_of(self.earlier.runs[0]), own, "in the run", "in this search"
        ):
            raise RunError(
                f"{self.earlier.runs[0].path}: a search cannot start from its networks: {reason}"
            )

    def score(self, network: Any) -> dict[str, Any] | None:
        """The score of a network, or None."""
        if self.earlier is not None:
            score = self.earlier.score(network, metrics=self.with_metrics)
            if score is not None:
                return score
        return None if self.bench is None else self.bench.score(network)

    def networks(self, space: SearchSpace[Any]) -> Iterator[tuple[Any, Any, str]]:
        """Genotype, network and source of all known networks of a space: the runs', then the
        bench's.
        """
        for trained in () if self.earlier is None else self.earlier.networks:
            genotype, network = trained.genotype, trained.network
            if trained.run.entry("space", "hash") != space.hash:
                genotype = (
                    space.locate(network)
                    if isinstance(space, OperatorSpace)
                    and isinstance(network, Architecture)
                    and space.contains(network)
                    else None
                )
            if genotype is not None and network is not None:
                yield genotype, network, f"run {trained.run.name}"
        if self.bench is not None and isinstance(space, OperatorSpace):
            for entry in self.bench.known:
                if (genotype := space.locate(entry.architecture)) is not None:
                    network = space.architecture(genotype, entry.architecture.hidden)
                    yield genotype, network, f"bench {entry.origin}"
