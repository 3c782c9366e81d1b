"""The live line of a search or a training on stderr: where it stands and how much time is left."""

from __future__ import annotations

import time
from typing import Self, TextIO

from flashnas.study.snapshot import Snapshot

REDRAW_S = 0.5
PLAIN_S = 15.0


class LiveLine:
    """On a terminal one line redrawn in place; elsewhere a line every 15 seconds and whenever something matters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._last, self._width = 0.0, 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._width:
            self._stream.write("\n")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def due(self, matters: bool) -> bool:
        """True when the line is to be drawn now."""
        return matters or time.monotonic() - self._last >= (REDRAW_S if self._live else PLAIN_S)

    def draw(self, text: str) -> None:
        self._last = time.monotonic()
        self._clear()
        self._stream.write(text if self._live else text + "\n")
        self._width = len(text) if self._live else 0
        self._stream.flush()

    def _clear(self) -> None:
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


class SearchProgress(LiveLine):
    """Best so far, done / failed / reused, time left."""

    _best = float("inf")

    def update(self, snapshot: Snapshot) -> None:
        improved = snapshot.best_loss is not None and snapshot.best_loss < self._best
        if improved and snapshot.best_loss is not None:
            self._best = snapshot.best_loss
        if self.due(improved):
            self.draw(self.line(snapshot, time.monotonic() - self._started))

    @staticmethod
    def line(snapshot: Snapshot, elapsed_s: float) -> str:
        best = "best -" if snapshot.best_loss is None else (
            f"best {snapshot.best_loss:.3f} nats/token at {snapshot.best_latency_ms or 0:,.0f} ms")
        left = "time left unknown" if snapshot.remaining_s is None else f"{duration(snapshot.remaining_s)} left"
        return (f"[{snapshot.done + snapshot.failed}/{snapshot.total}] {best} | done {snapshot.done}"
                f" failed {snapshot.failed} reused {snapshot.reused} | {duration(elapsed_s)} gone, {left}")


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
