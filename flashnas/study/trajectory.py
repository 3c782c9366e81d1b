"""The trials of a run in their order: evaluates what is new in a cycle, remembers the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.search.objectives import point
from flashnas.study.costs import Costs
from flashnas.study.folder import RunFolder
from flashnas.study.job import Job
from flashnas.study.pool import Workers
from flashnas.study.snapshot import Progress, Snapshot
from flashnas.study.trial import Origin, Outcome, State, Trial


@dataclass(frozen=True)
class Candidate:
    """A trial before it has a state: what a cycle is about to evaluate. `architecture` is None when no width meets the
    budgets; `genotype` is the space's encoding. Private to this room: a recorded candidate is a Trial."""

    origin: Origin
    label: str
    genotype: dict[str, Any]
    architecture: Any | None


class Tally:
    """What a run shows of itself, counted as it grows, so that a run of any length is shown in the same time."""

    def __init__(self) -> None:
        self.done = self.failed = self.from_bench = self.searched_from_bench = 0
        self.trials: Counter[tuple[str, str]] = Counter()   # (state, origin) -> trials
        self.best: tuple[float, str] | None = None          # lowest loss, hash
        self.trainings, self.seconds = 0, 0.0               # of this run, and those of an earlier part of it
        self._ended: set[str] = set()

    def ended(self, outcome: Outcome) -> None:
        """Count the outcome of a network of the trajectory, once."""
        if outcome.hash in self._ended:
            return
        self._ended.add(outcome.hash)
        self.from_bench += outcome.from_bench
        if outcome.score is None:
            self.failed += 1
            return
        self.done += 1
        if self.best is None or outcome.score["loss"] < self.best[0]:
            self.best = outcome.score["loss"], outcome.hash

    def took(self, outcome: Outcome) -> None:
        """Count the time of an evaluation that was made for the run."""
        if outcome.score is not None and not outcome.from_bench:
            self.trainings, self.seconds = self.trainings + 1, self.seconds + outcome.score["seconds"]

    def placed(self, trial: Trial) -> None:
        """Count a trial."""
        self.trials[trial.state, trial.origin] += 1
        self.searched_from_bench += trial.origin == "search" and trial.from_bench


class Trajectory:
    """Evaluates the networks of a cycle that are new, records each as it finishes, and turns all into trials.

    Args:
        total: networks that the run will evaluate, baselines included, without those that a bench answers; for the
            display.
        workers: jobs that run side by side; for the remaining time.
        distributions: Optuna's for the encoding; empty where the space has none.
        objectives: names, trained ones first.
        costs: the figures of a network.
        make_job: network -> its evaluation.
        known_score: network -> its score by a bench, or None.
        folder: where trials and outcomes are recorded.
        pool: runs the jobs.
        progress: shows them.
        rank_at_tokens: tokens to which losses are extrapolated; None: they are not.
    """

    def __init__(self, *, total: int, workers: int, distributions: Mapping[str, Any], objectives: Sequence[str],
                 costs: Costs, make_job: Callable[[Any], Job],
                 known_score: Callable[[Any], dict[str, Any] | None], folder: RunFolder, pool: Workers,
                 progress: Progress, rank_at_tokens: int | None = None) -> None:
        self.rank_at_tokens = rank_at_tokens
        self.total, self.workers, self.distributions = total, workers, distributions
        self.objectives, self.costs, self.make_job = tuple(objectives), costs, make_job
        self.known_score, self.folder, self.pool, self.progress = known_score, folder, pool, progress
        self.trials: list[Trial] = []
        self.networks: dict[str, Any] = {}     # hash -> network, all that were proposed
        self._placed: set[str] = set()         # hashes of networks that a trial holds
        self.tally = Tally()
        for outcome in self.outcomes.values():
            self.tally.took(outcome)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return self.folder.database.outcomes

    def evaluate(self, cycle: int, candidates: Sequence[Candidate]) -> list[Trial]:
        """Trials of the candidates, in their order."""
        new: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.architecture is not None:
                self.networks.setdefault(candidate.architecture.hash, candidate.architecture)
                if candidate.architecture.hash not in self.outcomes:
                    new.setdefault(candidate.architecture.hash, candidate)
                else:
                    self.tally.ended(self.outcomes[candidate.architecture.hash])
        jobs: dict[str, Job] = {}
        for key, candidate in new.items():
            known = self.known_score(candidate.architecture)
            if known is None:
                jobs[key] = self.make_job(candidate.architecture)
            else:
                self._remember(candidate, known, "")
        for key, score, reason in self.pool.run(jobs, on_wait=self.report):
            self._remember(new[key], score, reason)
            self.report()
        trials = [self._trial(cycle, candidate) for candidate in candidates]
        self.folder.write_trials(self.trials)
        self.report()
        return trials

    def _remember(self, candidate: Candidate, score: dict[str, Any] | None, reason: str) -> None:
        network = candidate.architecture
        assert network is not None
        outcome = Outcome(hash=network.hash, notation=network.notation, score=score, reason=reason)
        known = self.costs.metrics(network)
        if self.costs.known and score and (twice := sorted(set(score.get("metrics", {})) & set(known))):
            raise ConfigError(f"the evaluator returned {twice[0]!r}, which the latency table or cost function gives;"
                              " leave it out, or search with table=None")
        fields = outcome.fields(self.rank_at_tokens)
        values = point(self.objectives, {**known, **fields}, fields.get("scores", {})) if score else None
        with_params = candidate.origin == "search" and bool(self.distributions) and not outcome.from_bench
        self.folder.database.remember(outcome, params=candidate.genotype if with_params else {},
                                      distributions=self.distributions if with_params else {}, values=values)
        self.tally.took(outcome)
        self.tally.ended(outcome)

    def _trial(self, cycle: int, candidate: Candidate) -> Trial:
        known: dict[str, Any] = {"number": len(self.trials), "cycle": cycle, "origin": candidate.origin,
                                 "label": candidate.label, "genotype": candidate.genotype}
        network = candidate.architecture
        if network is None:
            trial = Trial(**known, state="infeasible", reason="no width of the space meets the budgets")
        else:
            outcome = self.outcomes[network.hash]
            state: State = ("reused" if network.hash in self._placed else
                            "complete" if outcome.score else "failed")
            self._placed.add(network.hash)
            figures = {**self.costs.metrics(network), **outcome.fields(self.rank_at_tokens)}
            if figures.get("params") is not None:
                figures["params"] = int(figures["params"])
            trial = Trial(**known, state=state, reason=outcome.reason, notation=network.notation, hash=network.hash,
                          hidden=getattr(network, "hidden", None), **figures)
        self.trials.append(trial)
        self.tally.placed(trial)
        return trial

    def count(self, state: str, origin: str | None = None) -> int:
        return sum(count for (own, by), count in self.tally.trials.items() if own == state and origin in (None, by))

    @property
    def searched(self) -> int:
        """Different networks that the search proposed, without those outside the budgets."""
        return self.count("complete", "search") + self.count("failed", "search")

    @property
    def evaluated(self) -> int:
        """Of `searched`, those that were evaluated: they count against the number asked for."""
        return self.searched - self.tally.searched_from_bench

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common())

    def report(self) -> None:
        """Show where the run is."""
        tally = self.tally
        ended = tally.done + tally.failed
        left = max(self.total + tally.from_bench - ended, 0)
        side_by_side = max(1, min(self.workers, left))
        loss, key = tally.best or (None, "")
        latency_ms = None if loss is None else {**self.costs.metrics(self.networks[key]), **(
            self.outcomes[key].score or {}).get("metrics", {})}.get("latency_ms")
        self.progress.update(Snapshot(
            done=tally.done, failed=tally.failed, reused=self.count("reused"), infeasible=self.count("infeasible"),
            total=max(self.total + tally.from_bench, ended), from_bench=tally.from_bench, best_loss=loss,
            best_latency_ms=latency_ms,
            remaining_s=left * tally.seconds / tally.trainings / side_by_side if tally.trainings else None))
