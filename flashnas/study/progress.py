"""Where a search is, and how long it takes: one plan of all its trainings, what of it is done, and
the pace so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flashnas.base.text import duration

# of a training, times the logarithm of the workers: until the last one of a cycle has ended
WAIT = 0.36
MAX_SHARE = 0.95  # of a training: what the time since the last completion may take off


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is.

    done, failed: evaluated networks of this run, baselines included, and of them those that failed.
    reused, infeasible: trials so far that cost no evaluation. from_bench: of `done`, networks whose
    score a bench or an earlier run had. total: networks that the run will evaluate, with baselines
    and those of the bench. best_loss, best_latency_ms: of the network that the front would show as
    the best now; the loss is that of its short training. remaining_s: of all trainings; None before
    the first evaluation by a user's evaluator has ended. share_done: by their time.
    """

    done: int
    failed: int
    reused: int
    infeasible: int
    total: int
    best_loss: float | None
    best_latency_ms: float | None
    remaining_s: float | None
    from_bench: int = 0
    share_done: float = 0.0


class Progress(Protocol):
    """Shows a run to its user."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def update(self, snapshot: Snapshot) -> None:
        """Where the run is now; called about once a second."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All trainings of a search.

    baselines: expected seconds of each that is not known, on one worker. candidate_s: mean seconds
    of a candidate. cycle: candidates that wait for each other. tokens: of one training; 0 where the
    user's evaluator scores.
    """

    baselines: Sequence[float]
    candidates: int
    candidate_s: float
    cycle: int = 1
    workers: int = 1
    tokens: int = 0


def training_plan(problem: Any, workers: int) -> TrainingPlan:
    """Of a `flashnas.study.problem.Problem`, with so many workers side by side."""
    config, recipe, limit = problem.config, problem.recipe, problem.time_limit
    new = problem.new_baselines.values()
    return TrainingPlan(
        baselines=[limit.expected_s(network) for network in new],
        candidates=int(min(config.trials, problem.space.size())),
        candidate_s=limit.expected_s(None),
        cycle=config.cycle_size,
        workers=workers,
        tokens=0 if recipe is None else recipe.steps * recipe.batch_tokens,
    )


class Clock:
    """The remaining time of a search, from its plan and from the trainings that have ended.

    Every training counts by its expected seconds; the pace is how much longer those that have ended
    took. Between two completions the time runs down. Nothing is assumed of the pace of a user's
    evaluator.
    """

    def __init__(self, plan: TrainingPlan, now: Callable[[], float] = time.monotonic) -> None:
        self.plan, self._now, self._since = plan, now, now()
        self.done_s = self.took_s = 0.0
        self.left_s, self._queued_s = self._work(plan.baselines, plan.candidates)

    def update(
        self,
        *,
        done: Sequence[tuple[float, float]],
        drawn: Sequence[float],
        candidates: int,
    ) -> None:
        """Where the search is, whenever a training has ended or begun. done: expected and real
        seconds of each training that has ended. drawn: expected seconds of each baseline and
        candidate that has not. candidates: how many are still to be drawn."""
        before = self.done_s
        self.done_s, self.took_s = (math.fsum(pair[index] for pair in done) for index in (0, 1))
        self.left_s, self._queued_s = self._work(drawn, candidates)
        if self.done_s != before:
            self._since = self._now()

    def _work(self, drawn: Sequence[float], candidates: int) -> tuple[float, float]:
        """Expected seconds of what is left, on one worker, and in all with the workers, which wait
        for each other at the end of a cycle."""
        plan, candidate_s = self.plan, self.plan.candidate_s
        work = math.fsum((*drawn, candidates * candidate_s))
        waits = 0 if plan.cycle == 1 else bool(drawn) + math.ceil(candidates / plan.cycle)
        return work, work / plan.workers + WAIT * math.log(plan.workers) * candidate_s * waits

    @property
    def pace(self) -> float | None:
        """Real over expected seconds; None as long as nothing says it."""
        return self.took_s / self.done_s if self.done_s else 1.0 if self.plan.tokens else None

    @property
    def share_done(self) -> float:
        """By their time."""
        return self.done_s / (self.done_s + self.left_s) if self.left_s else 1.0

    @property
    def remaining_s(self) -> float | None:
        """None where nobody knows the pace yet."""
        if not self.left_s:
            return 0.0
        if self.pace is None:
            return None
        plan, training_s = self.plan, self.pace * self.plan.candidate_s
        # the other workers are, on average, in the middle of a training
        begun = min(plan.workers, self.left_s / plan.candidate_s) - 1 if self.done_s else 0.0
        since_s = min(self._now() - self._since, MAX_SHARE * training_s)
        return max(
            self.pace * self._queued_s - max(begun, 0.0) / 2 * training_s / plan.workers - since_s,
            (1 - MAX_SHARE) * min(training_s, self.pace * self._queued_s),
        )

    def __str__(self) -> str:
        plan, took = self.plan, self.remaining_s
        count = len(plan.baselines) + plan.candidates
        evaluations = f"trainings of {plan.tokens:,} tokens" if plan.tokens else "evaluations"
        total = f": about {plan.tokens * count:,} tokens" if plan.tokens else ""
        with_workers = f"with {plan.workers} worker{'s' * (plan.workers > 1)}"
        hours = (
            f"; about {duration(took)} {with_workers}, until the pace is measured" if took else ""
        )
        return (
            f"plan: {count} {evaluations}, {len(plan.baselines)} baselines and {plan.candidates}"
            f" candidates{total}{hours}"
        )
