"""Where a search is, for whoever shows it to a user."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from flashnas.base.text import duration

# CPU seconds of what follows when a problem is loaded, without trainings: 5 to 6.5 in four spaces
ANSWER_CPU_S = 6.0
ANSWER_SHARE = 0.67  # of the time until the networks are scored: answer, pictures and report


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is.

    done, failed: evaluated networks of this run, baselines included, and of them those that failed.
    reused, infeasible: trials so far that cost no evaluation. known: of `done`, networks whose score
    an earlier run had. total: networks that the run will evaluate, with baselines and known ones.
    best_loss, best_latency_ms: of the network with the lowest loss. remaining_s: of all trainings
    and of what follows; None before the first evaluation by a user's evaluator has ended.
    share_done: by their time.
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


class AnswerTime:
    """How long a search takes apart from its trainings, by what loading it took."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def __str__(self) -> str:
        pace = (time.monotonic() - self._wall_s) / (time.process_time() - self._cpu_s)
        return (
            f"scoring networks; without trainings the answer takes {duration(pace * ANSWER_CPU_S)}"
        )

    @property
    def left_s(self) -> float:
        """Of the answer, once the networks are scored."""
        return ANSWER_SHARE * (time.monotonic() - self._wall_s)
