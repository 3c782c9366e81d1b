"""Evaluations of networks side by side. Each result is in the journal of the run the moment it
ends; a network that has a result there, or in an earlier run, is not evaluated again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from flashnas.base.errors import ArchitectureError, ConfigError, OperatorError
from flashnas.base.registry import foreign_errors
from flashnas.executors.base import Executor
from flashnas.study.progress import Progress, Snapshot
from flashnas.study.record import Record
from flashnas.study.trainings import Trainings
from flashnas.study.workers import note_idle_workers
from flashnas.trials.trial import RUN, Trial

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
        self.journal = record.folder.open_journal()
        self.executor = executor
        record.results = self.journal.results
        problem = record.problem
        self.networks: dict[str, Any] = {}
        self.bought = self.new = self.cycles = self.idle = 0
        note_idle_workers(executor, problem.config.cycle_size, progress.note)
        self._total = trainings.at_most + len(trainings.new_of(problem.baselines))
        self._next_report = 0.0
        self._flops: dict[str, float] = {}  # of the training of each network
        self._begun_s: float | None = None  # when the first one began here, ..
        self._before: set[str] = set()  # .. and what was known then

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
        if jobs and self._begun_s is None:
            self._begun_s, self._before = time.monotonic(), set(record.results)
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
        """Record in the journal how the evaluation of a proposed trial ended."""
        problem = self.record.problem
        returned = (score or {}).get("metrics", {})
        known = problem.costs.metrics(trial.architecture) if problem.costs.known else {}
        if twice := sorted(set(returned) & set(known)):
            raise ConfigError(
                f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                " gives; leave it out, or search with table=None"
            )
        self.journal.remember(trial.hash, trial.notation, score, reason)

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
        share_done, remaining_s = self._pace(total - len(ended))
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
            remaining_s=remaining_s,
            share_done=share_done,
        )

    def _pace(self, left: int) -> tuple[float, float | None]:
        """The share that is done, by FLOPs, and the seconds that the rest takes at the pace of this
        process so far; None before one has ended. left: networks whose training has not ended."""
        if left <= 0:
            return 1.0, 0.0
        results = self.record.results
        done = here = rest = 0.0
        waiting = 0
        for key, network in self.networks.items():
            flops = self._flops_of(key, network)
            if (result := results.get(key)) is None:
                rest += flops
                waiting += 1
            elif result.get("source") != RUN:
                done += flops
                here += 0.0 if key in self._before else flops
        rest += max(left - waiting, 0) * self.trainings.time_limit.mean_flops
        remaining_s = None
        if self._begun_s is not None and here:
            remaining_s = (time.monotonic() - self._begun_s) * rest / here
        return done / (done + rest), remaining_s

    def _flops_of(self, key: str, network: Any) -> float:
        if key not in self._flops:
            try:
                self._flops[key] = self.trainings.flops(network)
            except (ArchitectureError, OperatorError):  # a failed trial with its reason
                self._flops[key] = self.trainings.time_limit.mean_flops
        return self._flops[key]
