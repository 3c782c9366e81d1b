"""The trials of a run in their order: evaluates what is new in a cycle, remembers the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.search.objectives import point
from flashnas.study.costs import Costs
from flashnas.study.executors import Workers
from flashnas.study.folder import RunFolder
from flashnas.study.job import Job
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
        return trial

    def count(self, state: str, origin: str | None = None) -> int:
        return sum(t.state == state and origin in (None, t.origin) for t in self.trials)

    @property
    def searched(self) -> int:
        """Different networks that the search proposed, without those outside the budgets."""
        return self.count("complete", "search") + self.count("failed", "search")

    @property
    def evaluated(self) -> int:
        """Of `searched`, those that were evaluated: they count against the number asked for."""
        return self.searched - sum(trial.origin == "search" and trial.from_bench for trial in self.trials)

    def failures(self) -> dict[str, int]:
        """Reason -> number of networks that failed with it, the most frequent first."""
        return dict(Counter(trial.reason for trial in self.trials if trial.state == "failed").most_common())

    def report(self) -> None:
        """Show where the run is."""
        ended = {key: self.outcomes[key] for key in self.networks if key in self.outcomes}
        done = {key: outcome.score for key, outcome in ended.items() if outcome.score is not None}
        best = min(done, key=lambda key: done[key]["loss"], default=None)
        took = [outcome.score["seconds"] for outcome in self.outcomes.values()
                if outcome.score is not None and not outcome.from_bench]
        from_bench = sum(outcome.from_bench for outcome in ended.values())
        left = max(self.total + from_bench - len(ended), 0)
        side_by_side = max(1, min(self.workers, left))
        latency_ms = None if best is None else {
            **self.costs.metrics(self.networks[best]), **done[best].get("metrics", {})}.get("latency_ms")
        self.progress.update(Snapshot(
            done=len(done), failed=len(ended) - len(done), reused=self.count("reused"),
            infeasible=self.count("infeasible"), total=max(self.total + from_bench, len(ended)), from_bench=from_bench,
            best_loss=None if best is None else done[best]["loss"], best_latency_ms=latency_ms,
            remaining_s=left * sum(took) / len(took) / side_by_side if took else None))
