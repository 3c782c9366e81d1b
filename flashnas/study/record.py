"""What listens to a search: its decisions and results, in a run folder where there is one, so that a
continued search takes what an earlier process decided and trained; and where it is, for its user."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
from flashnas.study.trials import Trials
from flashnas.trials.trial import COLUMNS, RUN, Trial

REPORT_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is.

    done, failed: evaluated networks of this run, baselines included, and of them those that failed.
    known: of `done`, networks whose score an earlier run had. total: networks that the run will
    evaluate, with baselines and known ones. best_loss, best_latency_ms: of the network with the
    lowest loss. remaining_s: of the trainings, at the pace so far; None before there is one.
    """

    done: int
    failed: int
    total: int
    best_loss: float | None
    best_latency_ms: float | None
    remaining_s: float | None
    known: int = 0


class Progress(Protocol):
    """Shows a run to its user."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def update(self, snapshot: Snapshot) -> None:
        """Where the run is now; called about once a second."""


class Record:
    """What a search decided, and what came of it.

    Args:
        folder: each decision and each result is in its journal the moment it is made; None: they are
            kept for the process alone.
        progress: shows the search.

    Attributes:
        networks: hash -> network, of all that were evaluated or known before, in the order of the
            trajectory; baselines, too.
        results: hash -> the fields of a Trial that its evaluation fills.
        proposals: hash -> the decision (`cycle`, from 1) or the earlier run that it comes from, as
            fields of a Trial.
        acquisitions: what was trained because it was expected to improve the recommended network.
        left: networks that may still be trained.
        drawn: where each network that is proposed is trained, how many were drawn at random, and how
            many the sampler chose.
    """

    def __init__(
        self, problem: Problem, folder: RunFolder | None = None, progress: Progress | None = None
    ) -> None:
        self.problem, self.progress = problem, progress
        trainings = problem.trainings
        self.networks: dict[str, Any] = {}
        self.proposals: dict[str, dict[str, Any]] = {}
        self.acquisitions: list[Acquired] = []
        self.drawn: dict[str, int] = {}
        self.left = 0 if trainings is None else trainings.at_most
        self.baselines = {network.hash: each for each in problem.baselines if (network := each[1])}
        self.journal = None if folder is None or trainings is None else folder.open_journal()
        self.results = {} if self.journal is None else self.journal.results
        self._write = None if folder is None else folder.write_trials
        self._decisions = 0
        self._begun_s: float | None = None  # when the first training began here, ..
        self._here = 0  # .. and how many have ended since
        self._next_report = 0.0
        if self.journal is not None:
            trained = len({*self.journal.trained} - self.baselines.keys())
            if trained > self.left:
                rule = (
                    f"must be at least {trained}, as many as {self.journal.path.parent} has trained"
                )
                problem.config.wrong("trials", f"{rule}; got {self.left}")

    def note(self, text: str) -> None:
        """A line for the user."""
        if self.progress is not None:
            self.progress.note(text)

    def knows(self, network: Any, label: str = "") -> bool:
        """Whether an earlier run has the result of a network, which then is one here, too."""
        earlier = None if self.problem.trainings is None else self.problem.earlier
        metrics = not self.problem.costs.known
        score = None if earlier is None else earlier.score(network, metrics=metrics)
        if score is None:
            return False
        self.networks[network.hash] = network
        if label:
            self.proposals[network.hash] = {"origin": "run", "label": label}
        if network.hash not in self.results:
            self._remember(network, score)
        return True

    def decided(
        self, trials: Trials, chosen: Sequence[int], acquisition: Acquisition | None
    ) -> dict[str, Job]:
        """Decide to train the chosen ones, in their order, as many as are left, and the baselines;
        what is known costs nothing. acquisition: that chose them. Returns what has to run for it."""
        trainings = self.problem.trainings
        assert trainings is not None
        if acquisition is not None:
            self.note(acquisition_line(acquisition, trainings.tokens, trials.ranks_by != "value"))
        self._decisions += 1
        networks = []
        for network in self._as_before(trials, chosen):
            if network.hash not in self.networks and not self.knows(network):
                if not self.left:
                    break
                self.left -= 1
            self.proposals.setdefault(network.hash, {}).setdefault("cycle", self._decisions)
            networks.append(network)
        if acquisition is not None:
            before = trials.networks[trials.best].notation if len(trials.ranked) else ""
            self.acquisitions.append(
                {
                    "networks": [network.notation for network in networks],
                    "flops": sum(map(trainings.flops, networks)),
                    "gain": acquisition.gain_nats,
                    "before": before,
                    "after": before,
                }
            )
        jobs = {}
        for network in (*networks, *(network for _, network in self.baselines.values())):
            if not self.knows(network) and network.hash not in self.results:
                jobs[network.hash] = trainings.job(network)
            self.networks.setdefault(network.hash, network)
        self._begun_s = self._begun_s or time.monotonic()
        return jobs

    def _as_before(self, trials: Trials, chosen: Sequence[int]) -> list[Any]:
        """The chosen networks, which the journal has before the first job; or those that an earlier
        process decided to train in their place."""
        networks = [trials.networks[index] for index in chosen]
        if self.journal is None:
            return networks
        if self._decisions > len(self.journal.decisions):
            self.journal.decide(
                [{"hash": network.hash, "notation": network.notation} for network in networks]
            )
            return networks
        decided = self.journal.decisions[self._decisions - 1]
        at = {network.hash: network for network in networks}
        if at.keys() != set(decided):  # computed on another CPU, or by another version
            at = {network.hash: network for network in trials.networks}
        for key in decided:
            if key not in at:
                raise RunError(
                    f"{self.journal.path}: decided to train {key}, which this search has not"
                    " proposed; continue it with the version that began it, or choose another --out"
                )
        return [at[key] for key in decided]

    def ended(self, key: str, ended: Ended) -> None:
        """How an evaluation ended."""
        self._here += 1
        self._remember(self.networks[key], ended.result, ended.reason)
        self.report()

    def _remember(self, network: Any, score: dict[str, Any] | None, reason: str = "") -> None:
        """Keep a result. Raises ConfigError for a metric that is known without it, and a score that
        has the name of a column."""
        costs, found = self.problem.costs, score or {}
        known = costs.metrics(network) if costs.known else {}
        for taken, rule in (
            (
                {*found.get("metrics", {})} & {*known},
                "which the latency table or cost function gives; leave it out, or search with"
                " table=None",
            ),
            (
                {*found.get("scores", {})} & {*COLUMNS},
                "which is a column of trials.parquet; give it another name",
            ),
        ):
            if taken:
                raise ConfigError(f"the evaluator returned {min(taken)!r}, {rule}")
        if self.journal is None:
            self.results[network.hash] = result_fields(score, reason)
        else:
            self.journal.remember(network.hash, network.notation, score, reason)

    def learnt(self, trials: Trials) -> None:
        """Results were learnt, and the trials scored anew."""
        if self.acquisitions and (last := self.acquisitions[-1])["before"]:
            last["after"] = trials.networks[trials.best].notation
            self.note(
                "it leaves the recommendation as it was"
                if last["before"] == last["after"]
                else f"it changes the recommendation to {compressed(last['after'])}"
            )
        self.write(trials)
        self.report()

    def observed(self) -> list[ObservedLoss]:
        """The losses of the trainings of this search; those of earlier runs count already."""
        trainings = self.problem.trainings
        assert trainings is not None
        found = []
        for key, network in self.networks.items():
            result = self.results[key]
            if result["state"] == "complete" and result.get("source") != RUN:
                found.append(trainings.observed(network, float(result["loss"])))
        return found

    def write(
        self,
        trials: Trials,
        shown: Sequence[int] = (),
        beside: Mapping[str, tuple[str, Any]] | None = None,
    ) -> list[Trial]:
        """Write the table: trials that were evaluated, in the order of the trajectory, then those that
        are shown, and what is beside them, by hash with a label; and return it."""
        beside = {**self.baselines, **(beside or {})}
        tried = self.networks | {(network := trials.networks[at]).hash: network for at in shown}
        networks = {**tried, **{key: network for key, (_, network) in beside.items()}}
        rows = []
        for number, (key, network) in enumerate(networks.items()):
            proposal = {"number": number, "cycle": 0, **self.proposals.get(key, {})}
            index = trials.find(network) if key in tried else None
            if index is not None:
                proposal["genotype"] = trials.genotypes[index]
            if index is None or (key in self.baselines and not proposal["cycle"]):
                proposal = {"origin": "baseline", "label": beside[key][0], **proposal}
            rows.append(trials.described(network, self.results.get(key, {}), **proposal))
        if self._write is not None:
            self._write(rows)
        return rows

    def report(self, *, over: bool = False) -> None:
        """Show where the search is. over: it has ended."""
        now = time.monotonic()
        if self.progress is None or self.problem.trainings is None:
            return
        if not over and now < self._next_report:
            return
        self._next_report = now + REPORT_EVERY_S
        ended = {key: self.results[key] for key in self.networks if key in self.results}
        scored = {key: result for key, result in ended.items() if result["state"] == "complete"}
        total = len(self.networks) + (0 if over else self.left)
        left, remaining_s = total - len(ended), None
        if not left:
            remaining_s = 0.0
        elif self._begun_s is not None and self._here:
            remaining_s = (now - self._begun_s) * left / self._here
        best = min(scored, key=lambda key: scored[key]["loss"], default=None)
        metrics: dict[str, Any] = {}
        if best is not None:
            metrics = {**self.problem.costs.metrics(self.networks[best]), **scored[best]}
        self.progress.update(
            Snapshot(
                done=len(scored),
                failed=len(ended) - len(scored),
                total=total,
                known=sum(result.get("source") == RUN for result in ended.values()),
                best_loss=metrics.get("loss"),
                best_latency_ms=metrics.get("latency_ms"),
                remaining_s=remaining_s,
            )
        )
