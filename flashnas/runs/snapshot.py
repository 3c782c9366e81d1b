"""What a search says about itself while it runs, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
