"""Where a search is, for whoever shows it to a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is.

    done, failed: evaluated networks of this run, baselines included, and of them those that failed.
    reused, infeasible: trials so far that cost no evaluation. known: of `done`, networks whose score
    an earlier run had. total: networks that the run will evaluate, with baselines and known ones.
    best_loss, best_latency_ms: of the network with the lowest loss. share_done: of the trainings, by
    FLOPs. remaining_s: of the trainings, at the pace so far; None before there is one.
    """

    done: int
    failed: int
    reused: int
    infeasible: int
    total: int
    best_loss: float | None
    best_latency_ms: float | None
    remaining_s: float | None
    known: int = 0
    share_done: float = 0.0


class Progress(Protocol):
    """Shows a run to its user."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def update(self, snapshot: Snapshot) -> None:
        """Where the run is now; called about once a second."""
