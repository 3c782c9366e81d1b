"""Evaluates the candidates of a cycle: trains what is new, remembers the rest, keeps the trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flashnas.architecture import Architecture
from flashnas.latency.metrics import PREDICTED
from flashnas.search.objectives import point
from flashnas.study.folder import RunRecord
from flashnas.study.pool import Job, WorkerPool
from flashnas.study.snapshot import Snapshot
from flashnas.study.trial import State, Trial


class Progress(Protocol):
    def note(self, text: str) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...


@dataclass(frozen=True)
class Candidate:
    """What a cycle is about to evaluate; `architecture` is None when no width meets the budgets."""

    origin: str
    label: str
    genotype: dict[str, Any]
    architecture: Architecture | None


class Evaluator:
    """Trains the networks of a cycle that are new, records each as it finishes, and turns all into trials."""

    def __init__(self, *, trials: int, workers: int, distributions: dict[str, Any],
                 estimate: Callable[[Architecture], Any], make_job: Callable[[Architecture], Job],
                 objectives: Sequence[str], record: RunRecord, pool: WorkerPool, progress: Progress) -> None:
        """`estimate` gives the figures of an architecture, `make_job` what the pool's function needs to train it."""
        self.planned, self.workers, self.distributions = trials, workers, distributions
        self.objectives = objectives
        self.estimate, self.make_job = estimate, make_job
        self.record, self.pool, self.progress = record, pool, progress
        self.trials: list[Trial] = []
        self.hashes: set[str] = set()      # networks of this trajectory so far
        self.trained, self.train_seconds = 0, 0.0

    def evaluate(self, cycle: int, candidates: Sequence[Candidate]) -> list[Trial]:
        """Trials of the candidates, in their order."""
        new: dict[str, tuple[Architecture, Candidate]] = {}
        for candidate in candidates:
            architecture = candidate.architecture
            if architecture is not None and architecture.hash not in self.record.memory:
                new.setdefault(architecture.hash, (architecture, candidate))
        jobs = {key: self.make_job(architecture) for key, (architecture, _) in new.items()}
        for key, score, reason in self.pool.run(jobs, on_wait=self.report):
            architecture, candidate = new[key]
            outcome = {"hash": key, "notation": architecture.notation, "score": score, "reason": reason}
            searched = candidate.origin == "search"
            self.record.remember(outcome, params=candidate.genotype if searched else {},
                                 distributions=self.distributions if searched else {},
                                 values=self._values(architecture, score) if score else None)
            self.trained += 1
            self.train_seconds += score["seconds"] if score else 0.0
            self.report()
        rows = [self._trial(cycle, candidate) for candidate in candidates]
        self.record.write_trials(self.trials)
        self.report()
        return rows

    def _values(self, architecture: Architecture, score: dict[str, Any]) -> list[float]:
        estimate = self.estimate(architecture)
        figures = {"loss": score["loss"], **{name: getattr(estimate, name) for name in PREDICTED}}
        values = point(self.objectives, figures, score.get("scores", {}))
        assert values is not None
        return list(values)

    def _trial(self, cycle: int, candidate: Candidate) -> Trial:
        known: dict[str, Any] = {"number": len(self.trials), "cycle": cycle, "origin": candidate.origin,
                                 "label": candidate.label, "genotype": candidate.genotype}
        architecture = candidate.architecture
        if architecture is None:
            trial = Trial(**known, state="infeasible", reason="no width of the space meets the budgets")
        else:
            estimate = self.estimate(architecture)
            outcome = self.record.memory[architecture.hash]
            score = outcome["score"]
            state: State = "reused" if architecture.hash in self.hashes else "complete" if score else "failed"
            self.hashes.add(architecture.hash)
            figures = {name: getattr(estimate, name) for name in PREDICTED}
            trained = {} if not score else {
                "loss": score["loss"], "bits_per_byte": score["bits_per_byte"], "curve": score["curve"],
                "scores": score.get("scores", {}),
                "proxy_params": score["proxy_params"], "tokens": score["tokens"],
                "tokens_per_s": score["tokens_per_s"], "train_seconds": score["seconds"], "seed": score["seed"],
                "backends": score.get("backends", {})}
            trial = Trial(**known, state=state, reason=outcome["reason"], notation=architecture.notation,
                          hash=architecture.hash, hidden=architecture.hidden, **figures, **trained)
        self.trials.append(trial)
        return trial

    def count(self, state: str, origin: str | None = None) -> int:
        return sum(t.state == state and origin in (None, t.origin) for t in self.trials)

    @property
    def searched(self) -> int:
        """Networks of the search that were evaluated: those that count against `trials`."""
        return self.count("complete", "search") + self.count("failed", "search")

    def report(self) -> None:
        """Tell the progress line where the run stands."""
        outcomes = list(self.record.memory.values())
        done = [o for o in outcomes if o["score"]]
        best = min(done, key=lambda o: o["score"]["loss"], default=None)
        total = self.planned + self.count("complete", "baseline") + self.count("failed", "baseline")
        left = max(total - len(outcomes), 0)
        mean_s = self.train_seconds / self.trained if self.trained else None
        latency = None if best is None else self.estimate(Architecture.parse(best["notation"])).latency_ms
        self.progress.update(Snapshot(
            done=len(done), failed=len(outcomes) - len(done), reused=self.count("reused"),
            infeasible=self.count("infeasible"), total=max(total, len(outcomes)),
            best_loss=best["score"]["loss"] if best else None, best_latency_ms=latency,
            remaining_s=None if mean_s is None else left * mean_s / self.workers))
