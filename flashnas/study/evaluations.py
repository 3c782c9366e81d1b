"""Evaluations of networks side by side. Each result is in the database of the run the moment it
ends; a network that has a result there, or in an earlier run, is not evaluated again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from flashnas.algorithms.trial import RUN, Trial
from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.executors.base import Executor
from flashnas.run_folder.database import result_fields
from flashnas.study.progress import Progress, Snapshot
from flashnas.study.record import Record
from flashnas.study.training_time import Clock, training_plan
from flashnas.study.trainings import Trainings
from flashnas.study.workers import side_by_side

REPORT_SHARE = 20  # a report is not repeated before so many times the time that it took, ..
QUICK_S = 0.002  # .. unless that was less than this


class Evaluations:
    """The evaluations of one run.

    Attributes:
        networks: hash -> network, of all that were proposed so far.
        bought: those of them that cost an evaluation of this run. new: those that have a result.
        idle: cycles in a row with nothing new.
        cycles: proposed so far.
    """

    def __init__(
        self,
        record: Record,
        trainings: Trainings,
        progress: Progress,
        executor: Executor,
    ) -> None:
        self.record = record
        self.trainings = trainings
        self.progress = progress
        self.database = record.folder.open_database()
        self.executor = executor
        record.results = self.database.results
        problem = record.problem
        self.networks: dict[str, Any] = {}
        self.bought = self.new = self.cycles = self.idle = 0
        workers = side_by_side(executor, problem.config.cycle_size, progress.note)
        self.clock = Clock(training_plan(problem, trainings, workers))
        self.distributions = problem.space.distributions()
        self._total = trainings.at_most + len(self.clock.plan.baselines)
        self._next_report = 0.0

    @property
    def left(self) -> int:
        """How many networks may still be bought."""
        return max(0, self.trainings.at_most - self.bought)

    def foreign(self, algorithm: Any) -> AbstractContextManager[None]:
        """What code of another package raises in a call of the algorithm is one line."""
        return foreign_errors(("sampler", algorithm), *self.record.problem.foreign())

    def proposals(self, genotypes: Sequence[Any]) -> list[Trial]:
        """Those of the next cycle, each at the largest width within the budgets."""
        self.cycles += 1
        fitter = self.record.problem.fitter
        return [
            Trial.of(fitter.fit_width(genotype)[0], genotype=genotype, cycle=self.cycles)
            for genotype in genotypes
        ]

    def evaluate(self, proposals: Sequence[Trial]) -> list[Trial]:
        """Evaluate the new networks of a cycle; then all proposals become trials, in the order
        proposed."""
        record, before = self.record, self.new
        evaluated: dict[str, Trial] = {}
        for proposal in proposals:
            if proposal.feasible and proposal.hash not in self.networks:
                self.networks[proposal.hash] = proposal.architecture
                evaluated[proposal.hash] = proposal
        for proposal in evaluated.values():
            self.look_up(proposal)
        jobs = {
            key: self.trainings.job(proposal.architecture)
            for key, proposal in evaluated.items()
            if key not in record.results
        }
        for key, ended in self.executor.run(jobs, on_wait=self.report):
            self._remember(evaluated[key], ended.result, ended.reason)
            self.report()
        trials = [record.add(proposal) for proposal in proposals]
        searched = [trial for trial in trials if trial.origin == "search"]
        new = [trial for trial in searched if trial.state in ("complete", "failed")]
        self.new += len(new)
        self.bought += sum(not trial.computed_elsewhere for trial in new)
        if searched:
            self.idle = self.idle + 1 if self.new == before else 0
        return trials

    def look_up(self, proposal: Trial) -> None:
        """Take the score of an earlier run, where there is one."""
        self.networks.setdefault(proposal.hash, proposal.architecture)
        if proposal.hash not in self.record.results:
            metrics = not self.record.problem.costs.known
            score = self.trainings.score(proposal.architecture, metrics=metrics)
            if score is not None:
                self._remember(proposal, score)

    def write(self) -> None:
        """Write the trials and show where the search is."""
        self.record.folder.write_trials(self.record.trials)
        self.report()

    def _remember(self, trial: Trial, score: dict[str, Any] | None, reason: str = "") -> None:
        """Record in the database how the evaluation of a proposed trial ended; with its genotype if
        the search proposed it."""
        problem = self.record.problem
        returned = (score or {}).get("metrics", {})
        known = problem.costs.metrics(trial.architecture) if problem.costs.known else {}
        if twice := sorted(set(returned) & set(known)):
            raise ConfigError(
                f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                " gives; leave it out, or search with table=None"
            )
        result = result_fields(score, reason)
        with_params = (
            trial.origin == "search" and bool(self.distributions) and result.get("source") != RUN
        )
        scored = None if score is None else self.record.with_figures(trial, result).values
        self.database.remember(
            trial,
            score,
            reason,
            distributions=self.distributions if with_params else {},
            params=problem.space.encode(trial.genotype) if with_params else {},
            values=scored,
        )

    # -- what came of it ---------------------------------------------------------------------------

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
        record = self.record
        ended = {key: record.results[key] for key in self.networks if key in record.results}
        scored = {key: result for key, result in ended.items() if result["state"] == "complete"}
        known = sum(result.get("source") == RUN for result in ended.values())
        total = max(self._total + known, len(ended))
        self._set_clock(total - len(ended))
        best = min(scored, key=lambda key: scored[key]["loss"], default=None)
        latency_ms = None
        if best is not None:
            metrics = {**record.problem.costs.metrics(self.networks[best]), **scored[best]}
            latency_ms = metrics.get("latency_ms")
        return Snapshot(
            done=len(scored),
            failed=len(ended) - len(scored),
            reused=record.count("reused"),
            infeasible=record.count("infeasible"),
            total=total,
            known=known,
            best_loss=None if best is None else scored[best]["loss"],
            best_latency_ms=latency_ms,
            remaining_s=self.clock.remaining_s,
            share_done=self.clock.share_done,
        )

    def _set_clock(self, left: int) -> None:
        """left: networks whose evaluation has not ended."""
        results, running = self.record.results, self.executor.running
        done, proposed = [], []
        for key, network in self.networks.items():
            expected_s = self.trainings.time_limit.expected_s(network)
            if (result := results.get(key)) is None:
                gone_s, left_s = running.get(key, (0.0, 1.0))
                share = gone_s / (gone_s + left_s)
                done.append((share * expected_s, gone_s))
                proposed.append((1 - share) * expected_s)
            elif result["state"] == "complete" and result["source"] != RUN:
                done.append((expected_s, float(result["train_seconds"])))
        self.clock.update(done=done, drawn=proposed[:left], candidates=max(left - len(proposed), 0))
