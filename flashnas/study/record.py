"""What listens to a search: `Record` keeps it for the process, `RunRecord` in a run folder, so that
a continued search takes what an earlier process decided and trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.architecture.architecture import compressed
from flashnas.base.errors import ConfigError, RunError
from flashnas.executors.base import Ended
from flashnas.executors.job import Job
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.folder import RunFolder
from flashnas.run_folder.journal import result_fields
from flashnas.run_folder.recorded_answer import Acquired
from flashnas.study.acquisition import Acquisition, acquisition_line
from flashnas.study.problem import Problem
from flashnas.study.progress import Pace, Progress, Snapshot
from flashnas.study.trials import Trials
from flashnas.trials.trial import COLUMNS, RUN, Trial

REPORT_SHARE = 20  # a report is not repeated before so many times the time that it took, ..
QUICK_S = 0.002  # .. unless that was less than this


class Record:
    """What a search tells.

    Attributes:
        networks: hash -> network, of all that were evaluated or known before, in the order of the
            trajectory; baselines, too.
        results: hash -> the fields of a Trial that its evaluation fills.
        indices: hash -> index of its trial.
        cycles: hash -> in which decision it was chosen, from 1; 0 for baselines.
        labels: hash -> the earlier run that trained it.
        acquisitions: what was trained because it was expected to improve the recommended network.
        left: networks that may still be trained.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.networks: dict[str, Any] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.indices: dict[str, int] = {}
        self.cycles: dict[str, int] = {}
        self.labels: dict[str, str] = {}
        self.acquisitions: list[Acquired] = []
        self.left = 0 if problem.trainings is None else problem.trainings.at_most

    def note(self, text: str) -> None:
        """A line for the user."""

    def knows(self, network: Any, label: str = "") -> bool:
        """Whether an earlier run has the result of a network, which then is one here, too."""
        trainings = self.problem.trainings
        known = not self.problem.costs.known
        score = None if trainings is None else trainings.score(network, metrics=known)
        if score is None:
            return False
        self.networks[network.hash] = network
        if label:
            self.labels[network.hash] = label
        if network.hash not in self.results:
            self._remember(network, score, "")
        return True

    def acquires(self, trials: Trials, acquisition: Acquisition) -> None:
        """Trainings were chosen because of what they are expected to gain."""
        self.note(acquisition_line(acquisition, trials.ranks_by != "value"))
        before = trials.networks[trials.best].notation if len(trials.ranked) else ""
        self.acquisitions.append(
            {
                "networks": [],
                "flops": acquisition.flops,
                "gain": acquisition.gain_nats,
                "before": before,
                "after": before,
            }
        )

    def decided(self, trials: Trials, chosen: Sequence[int]) -> list[int]:
        """The trials that are trained next: of the chosen ones, in their order, as many as are left;
        what is known costs nothing."""
        found: list[int] = []
        for index in chosen:
            network = trials.networks[index]
            if network.hash not in self.networks and not self.knows(network):
                if not self.left:
                    break
                self.left -= 1
            found.append(index)
        return found

    def jobs(self, trials: Trials, chosen: Sequence[int]) -> dict[str, Job]:
        """What has to run for the results of chosen trials, and of the baselines."""
        trainings = self.problem.trainings
        assert trainings is not None
        baselines = [network for _, network in self.problem.baselines if network is not None]
        networks = [trials.networks[index] for index in chosen]
        if self.acquisitions:
            flops = sum(trainings.flops(trainings.of(network)) for network in networks)
            notations = [network.notation for network in networks]
            self.acquisitions[-1] |= {"networks": notations, "flops": flops}
        cycle = 1 + max(self.cycles.values(), default=0)
        for network in networks:
            self.cycles.setdefault(network.hash, cycle)
        due = {network.hash: network for network in (*networks, *baselines)}
        jobs = {}
        for key, network in due.items():
            if not self.knows(network) and key not in self.results:
                jobs[key] = trainings.job(network)
            self.networks.setdefault(key, network)
        return jobs

    def ended(self, key: str, ended: Ended) -> None:
        """How an evaluation ended."""
        self._remember(self.networks[key], ended.result, ended.reason)
        self.report()

    def report(self) -> None:
        """Show where the search is."""

    def learnt(self, trials: Trials) -> None:
        """Results were learnt, and the trials scored anew."""
        if self.acquisitions and (last := self.acquisitions[-1])["before"]:
            last["after"] = trials.networks[trials.best].notation
            self.note(
                "it leaves the recommendation as it was"
                if last["before"] == last["after"]
                else f"it changes the recommendation to {compressed(last['after'])}"
            )

    def observed(self) -> list[ObservedLoss]:
        """The losses of the trainings of this search; those of earlier runs count already."""
        trainings = self.problem.trainings
        assert trainings is not None
        found = []
        for key, network in self.networks.items():
            result = self.results[key]
            if result["state"] == "complete" and result.get("source") != RUN:
                training = trainings.of(network)
                assert training is not None, "an evaluator's losses are none of a training"
                found.append(trainings.observed(training, float(result["loss"])))
        return found

    def _remember(self, network: Any, score: dict[str, Any] | None, reason: str) -> None:
        self.results[network.hash] = self._checked(network, score, reason)

    def _checked(
        self, network: Any, score: Mapping[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        """The fields of a result. Raises ConfigError for a metric that is known without it, and a
        score that has the name of a column."""
        costs = self.problem.costs
        known = costs.metrics(network) if costs.known else {}
        if twice := sorted({*(score or {}).get("metrics", {})} & {*known}):
            raise ConfigError(
                f"the evaluator returned {twice[0]!r}, which the latency table or cost function"
                " gives; leave it out, or search with table=None"
            )
        if taken := sorted({*(score or {}).get("scores", {})} & {*COLUMNS}):
            raise ConfigError(
                f"the evaluator returned {taken[0]!r}, which is a column of trials.parquet; give it"
                " another name"
            )
        return result_fields(score, reason)


class RunRecord(Record):
    """A search in a run folder, shown to its user: each decision and each result is in the journal
    the moment it is made."""

    def __init__(self, problem: Problem, folder: RunFolder, progress: Progress) -> None:
        super().__init__(problem)
        self.folder, self.progress = folder, progress
        self.note = progress.note  # type: ignore[method-assign]
        self.journal = None if problem.trainings is None else folder.open_journal()
        if self.journal is not None:
            self.results = self.journal.results
        self._replayed = 0  # decisions of earlier processes that were made again
        self.shown: list[int] = []
        # baselines and what else the recommended network is compared with
        self.beside = {
            network.hash: (label, network) for label, network in problem.baselines if network
        }
        if self.journal is not None:
            trained = len({*self.journal.trained} - self.beside.keys())
            if trained > self.left:
                rule = f"must be at least {trained}, as many as {folder.path} has trained"
                problem.config.wrong("trials", f"{rule}; got {self.left}")
        self._trials: dict[str, Trial] = {}  # as described by ..
        self._described_by: Any = None  # .. this scorer
        self._pace = None if problem.trainings is None else Pace(problem.trainings)
        self._next_report = 0.0

    def decided(self, trials: Trials, chosen: Sequence[int]) -> list[int]:
        assert self.journal is not None
        networks = [trials.networks[index] for index in chosen]
        if self._replayed == len(self.journal.decisions):
            self.journal.decide(
                [{"hash": network.hash, "notation": network.notation} for network in networks]
            )
            return super().decided(trials, chosen)
        decided = self.journal.decisions[self._replayed]
        self._replayed += 1
        at = {network.hash: index for network, index in zip(networks, chosen, strict=True)}
        if at.keys() != set(decided):  # computed on another CPU, or by another version
            at = {network.hash: index for index, network in enumerate(trials.networks)}
        for key in decided:
            if key not in at:
                raise RunError(
                    f"{self.journal.path}: decided to train {key}, which this search has not"
                    " proposed; continue it with the version that began it, or choose another --out"
                )
        return super().decided(trials, [at[key] for key in decided])

    def _remember(self, network: Any, score: dict[str, Any] | None, reason: str) -> None:
        assert self.journal is not None
        self._checked(network, score, reason)
        self.journal.remember(network.hash, network.notation, score, reason)

    # -- the table of trials -----------------------------------------------------------------------

    def jobs(self, trials: Trials, chosen: Sequence[int]) -> dict[str, Job]:
        jobs = super().jobs(trials, chosen)
        if self._pace is not None:
            self._pace.begin(self.results)
        return jobs

    def learnt(self, trials: Trials) -> None:
        super().learnt(trials)
        self.write(trials)
        self.report()

    def write(self, trials: Trials) -> list[Trial]:
        """Write the table, and return it."""
        rows = self.table(trials)
        self.folder.write_trials(rows)
        return rows

    def table(self, trials: Trials) -> list[Trial]:
        """The trials that were evaluated, in the order of the trajectory, those that are shown, and
        what is beside them."""
        if self._described_by is not trials.scorer:
            self._trials, self._described_by = {}, trials.scorer
        self.indices |= {trials.networks[index].hash: index for index in self.shown}
        baselines = {network.hash for _, network in self.problem.baselines if network}
        waiting = {} if self._pace is not None and not self.shown else self.beside
        for key in dict.fromkeys((*self.networks, *self.indices, *waiting)):
            result = self.results.get(key, {})
            if key in self._trials and self._trials[key].state == result.get("state", "expected"):
                continue
            proposal: dict[str, Any] = {
                "number": len(self._trials),
                "cycle": self.cycles.get(key, 0),
            }
            if key in self.indices:
                index = self.indices[key]
                network, proposal["genotype"] = trials.networks[index], trials.genotypes[index]
            if key not in self.indices or (key in baselines and key not in self.cycles):
                label, network = self.beside[key]
                proposal |= {"origin": "baseline", "label": label}
            if key in self.labels:
                proposal |= {"origin": "run", "label": self.labels[key]}
            self._trials[key] = trials.described(network, result, **proposal)
        return list(self._trials.values())

    # -- where the search is -----------------------------------------------------------------------

    def report(self, *, ended: bool = False) -> None:
        """Show where the search is; rarely where there is much to count. ended: it is over."""
        started = time.monotonic()
        if self._pace is not None and (ended or started >= self._next_report):
            self.progress.update(self._snapshot(ended))
            shown = time.monotonic()
            took_s = shown - started
            self._next_report = shown + REPORT_SHARE * took_s if took_s > QUICK_S else 0.0

    def _snapshot(self, over: bool) -> Snapshot:
        assert self._pace is not None
        ended = {key: self.results[key] for key in self.networks if key in self.results}
        scored = {key: result for key, result in ended.items() if result["state"] == "complete"}
        known = sum(result.get("source") == RUN for result in ended.values())
        total = len(self.networks) + (0 if over else self.left)
        share_done, remaining_s = self._pace.of(
            self.networks, self.results, total - len(self.networks)
        )
        best = min(scored, key=lambda key: scored[key]["loss"], default=None)
        latency_ms = None
        if best is not None:
            metrics = {**self.problem.costs.metrics(self.networks[best]), **scored[best]}
            latency_ms = metrics.get("latency_ms")
        return Snapshot(
            done=len(scored),
            failed=len(ended) - len(scored),
            total=total,
            known=known,
            best_loss=None if best is None else scored[best]["loss"],
            best_latency_ms=latency_ms,
            remaining_s=remaining_s,
            share_done=share_done,
        )
