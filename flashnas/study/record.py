"""The record of a run: its trials in their order, and the results of their evaluations."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from flashnas.algorithms.objectives import FULL, point
from flashnas.algorithms.trial import RUN, Trial, result_fields
from flashnas.base.errors import ConfigError
from flashnas.run_folder.folder import RunFolder
from flashnas.study.problem import Problem
from flashnas.study.progress import Clock, Progress, Snapshot, training_plan

REPORT_SHARE = 20  # a report is not repeated before so many times the time that it took, ..
QUICK_S = 0.002  # .. unless that was less than this


class Record:
    """The trials of one run, and the results of its evaluations.

    Attributes:
        results: hash of a network -> the fields of a Trial that its evaluation fills.
        trials: in the order of the trajectory.
        networks: hash -> network, of all that were proposed so far.
        placed: hashes of the networks that have a trial.
        cycles: proposed so far.
        searched: trials of the search that were new; evaluated: those of them that cost an
            evaluation.
    """

    def __init__(
        self, problem: Problem, folder: RunFolder, progress: Progress, workers: int
    ) -> None:
        self.problem, self.folder, self.progress = problem, folder, progress
        self.results = folder.database.results
        self.trials: list[Trial] = []
        self.networks: dict[str, Any] = {}
        self.recorded: set[str] = set()
        self.cycles = self.searched = self.evaluated = 0
        self.clock = Clock(training_plan(problem, workers))
        self._distributions = problem.space.distributions()
        self._total = problem.config.trials + len(problem.new_baselines)
        self._next_report = 0.0

    # -- evaluations -------------------------------------------------------------------------------

    def remember(self, trial: Trial, score: dict[str, Any] | None, reason: str = "") -> None:
        """Record in the database how the evaluation of a proposed trial ended; with its genotype if
        the search proposed it."""
        costs, space = self.problem.costs, self.problem.space
        returned = (score or {}).get("metrics", {})
        known = costs.metrics(trial.architecture) if costs.known else {}
        if twice := sorted(set(returned) & set(known)):
            raise ConfigError(
                f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                " gives; leave it out, or search with table=None"
            )
        result = result_fields(score, reason)
        with_params = (
            trial.origin == "search" and bool(self._distributions) and result.get("source") != RUN
        )
        self.folder.database.remember(
            trial,
            score,
            reason,
            distributions=self._distributions if with_params else {},
            params=space.encode(trial.genotype) if with_params else {},
            values=None if score is None else self._with_figures(trial, result).values,
        )

    def _with_figures(self, trial: Trial, result: Mapping[str, Any]) -> Trial:
        """A trial with what costs, its evaluation and published trainings say of its network."""
        problem = self.problem
        figures = {
            **problem.costs.metrics(trial.architecture),
            **result,
            **problem.expected_figures(trial.architecture, result.get("loss")),
        }
        if figures.get("params") is not None:
            figures["params"] = int(figures["params"])
        values = point(problem.config.objectives, figures)
        return dataclasses.replace(trial, **figures, values=values)

    # -- trials ------------------------------------------------------------------------------------

    def add(self, proposed: Trial) -> Trial:
        """Make a proposed trial the next one of the trajectory, with its result."""
        trial = dataclasses.replace(proposed, number=len(self.trials))
        if trial.feasible:
            result = self.results.get(trial.hash)
            trial = self._with_figures(trial, result or {"state": "expected"})
            if trial.hash in self.recorded:
                trial = dataclasses.replace(trial, state="reused")
            self.recorded.add(trial.hash)
        self.trials.append(trial)
        if trial.origin == "search":
            new = trial.state in ("complete", "failed")
            self.searched += new
            self.evaluated += new and not trial.computed_elsewhere
        return trial

    def write(self) -> None:
        self.folder.write_trials(self.trials)

    def best_value(self) -> float | None:
        """The lowest value that ranks, of the trials that keep the floor for recall; None without
        one."""
        floor = self.problem.config.recall_floor
        values = [
            trial.values[0]
            for trial in self.trials
            if trial.values is not None and (trial.expected_recall or 0.0) >= floor
        ]
        return min(values, default=None)

    # -- what came of it ---------------------------------------------------------------------------

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(
            Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common()
        )

    def tokens(self) -> int:
        """Training tokens of this run that were computed for a recorded score."""
        return sum(
            int(result.get("tokens") or 0)
            for key, result in self.results.items()
            if key in self.recorded and _computed_here(result)
        )

    def report(self, *, ended: bool = False) -> None:
        """Show where the run is; rarely where there is much to count. ended: the last training."""
        started = time.monotonic()
        if ended:
            self._total = 0  # beyond what was trained
        if ended or started >= self._next_report:
            self.progress.update(self._snapshot())
            shown = time.monotonic()
            took_s = shown - started
            self._next_report = shown + REPORT_SHARE * took_s if took_s > QUICK_S else 0.0

    def _snapshot(self) -> Snapshot:
        ended = {key: self.results[key] for key in self.networks if key in self.results}
        scored = {key: result for key, result in ended.items() if result["state"] == "complete"}
        known = sum(result.get("source") == RUN for result in ended.values())
        total = max(self._total + known, len(ended))
        self._set_clock(total - len(ended))
        best = self._best(scored)
        latency_ms = None
        if best is not None:
            metrics = {**self.problem.costs.metrics(self.networks[best]), **scored[best]}
            latency_ms = metrics.get("latency_ms")
        return Snapshot(
            done=len(scored),
            failed=len(ended) - len(scored),
            reused=self.count("reused"),
            infeasible=self.count("infeasible"),
            total=total,
            known=known,
            best_loss=None if best is None else scored[best]["loss"],
            best_latency_ms=latency_ms,
            remaining_s=self.clock.remaining_s,
            share_done=self.clock.share_done,
        )

    def _best(self, scored: Mapping[str, Mapping[str, Any]]) -> str | None:
        """The hash of the network that the front would recommend now."""
        quality, keeping = {}, []
        for key, result in scored.items():
            figures = self.problem.expected_figures(self.networks[key], result["loss"])
            quality[key] = point([FULL], figures) or (result["loss"],)
            if figures.get("expected_recall", 0.0) >= self.problem.config.recall_floor:
                keeping.append(key)
        return min(keeping or quality, key=lambda key: quality[key], default=None)

    def _set_clock(self, left: int) -> None:
        """left: networks whose evaluation has not ended."""
        expected_s = self.problem.time_limit.expected_s
        done = [
            (expected_s(self.networks[key]), float(result["train_seconds"]))
            for key, result in self.results.items()
            if key in self.networks and _computed_here(result)
        ]
        proposed = [
            expected_s(network) for key, network in self.networks.items() if key not in self.results
        ]
        # `networks` ends with those that published trainings alone put on the front
        self.clock.update(done=done, drawn=proposed[:left], candidates=max(left - len(proposed), 0))


def _computed_here(result: Mapping[str, Any]) -> bool:
    """True if the result is a score that was computed for this run."""
    return result["state"] == "complete" and result["source"] != RUN
