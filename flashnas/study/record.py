"""The trials of a run in their order, with what costs, evaluations and the scorer say of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flashnas.algorithms.objectives import point
from flashnas.algorithms.trial import Trial
from flashnas.run_folder.folder import RunFolder
from flashnas.study.problem import Problem
from flashnas.study.scorer import Scorer


class Record:
    """The trials of one run.

    Attributes:
        scorer: with all that was observed so far.
        trials: in the order of the trajectory.
        results: hash of a network -> the fields of a Trial that its evaluation fills.
        recorded: hashes of the networks that have a trial.
    """

    def __init__(self, problem: Problem, folder: RunFolder) -> None:
        self.problem, self.folder = problem, folder
        self.scorer: Scorer | None = problem.scorer
        self.trials: list[Trial] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.recorded: set[str] = set()

    def add(self, proposed: Trial) -> Trial:
        """Make a proposed trial the next one of the trajectory, with its result."""
        trial = dataclasses.replace(proposed, number=len(self.trials))
        if trial.feasible:
            trial = self.with_figures(trial, self.results.get(trial.hash, {"state": "expected"}))
            if trial.hash in self.recorded:
                trial = dataclasses.replace(trial, state="reused")
            self.recorded.add(trial.hash)
        self.trials.append(trial)
        return trial

    def rescore(self, scorer: Scorer) -> None:
        """Give all trials the figures of a scorer that knows more."""
        self.scorer = scorer
        self.trials = [
            self.with_figures(trial, {}) if trial.feasible else trial for trial in self.trials
        ]

    def with_figures(self, trial: Trial, result: Mapping[str, Any]) -> Trial:
        """A trial with what costs, its evaluation and the scorer say of its network."""
        problem = self.problem
        figures = {**problem.costs.metrics(trial.architecture), **result}
        if self.scorer is not None:
            figures |= self.scorer.figures(trial.architecture)
        if figures.get("params") is not None:
            figures["params"] = int(figures["params"])
        scored = dataclasses.replace(trial, **figures)
        return dataclasses.replace(scored, values=point(problem.objectives, vars(scored)))

    def write(self) -> None:
        if self.trials:
            self.folder.write_trials(self.trials)

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)
