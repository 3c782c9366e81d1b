"""One line on stderr for whatever takes longer than two seconds: what is done and how much time is
left.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Self, TextIO

from flashnas.base.text import duration, printable

if TYPE_CHECKING:
    from flashnas.api.search import Snapshot
    from flashnas.api.train import Step

REDRAW_S = 0.5
PLAIN_S = 15.0


def left_words(remaining_s: float | None) -> str:
    """`5 min 10 s left`."""
    return "time left unknown" if remaining_s is None else f"{duration(remaining_s)} left"


class LiveLine:
    """On a terminal one line redrawn in place; elsewhere a line every 15 seconds and whenever
    something matters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._last = 0.0
        self._width = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._width:
            self._stream.write("\n")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._stream.write(printable(text) + "\n")
        self._stream.flush()

    def due(self, matters: bool) -> bool:
        """True when the line is to be drawn now."""
        return matters or time.monotonic() - self._last >= (REDRAW_S if self._live else PLAIN_S)

    def hint(self, text: str) -> None:
        """A line until the next one, on a terminal alone."""
        if self._live:
            self.draw(text)

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
    """Share done, the lowest loss, networks by what came of them, and the time left at the pace so
    far."""

    _best: float | None = None
    _done = False

    def update(self, snapshot: Snapshot) -> None:
        improved = snapshot.best_loss != self._best
        self._best = snapshot.best_loss
        done = snapshot.done + snapshot.failed == snapshot.total
        ended, self._done = done and not self._done, done
        if self.due(improved or ended):
            self.draw(self.line(snapshot, time.monotonic() - self._started))

    @staticmethod
    def line(snapshot: Snapshot, elapsed_s: float) -> str:
        best = "no loss yet"
        if snapshot.best_loss is not None:
            at_ms = snapshot.best_latency_ms or 0
            best = f"lowest loss {snapshot.best_loss:.3f} nats/token at {at_ms:,.0f} ms"
        if not snapshot.total:
            return f"networks scored, the answer follows | {duration(elapsed_s)} gone"
        time_left = f"{duration(elapsed_s)} gone, {left_words(snapshot.remaining_s)}"
        over = snapshot.done + snapshot.failed
        known = snapshot.known
        counts = [
            f"{over - known} of {snapshot.total - known} networks trained",
            *(
                f"{count} {what}"
                for count, what in ((snapshot.failed, "of them failed"), (known, "known before"))
                if count
            ),
        ]
        return (
            f"[{math.floor(100 * snapshot.share_done):3d} %] {best} | {', '.join(counts)} |"
            f" {time_left}"
        )


class CountProgress(LiveLine):
    """Done, all, and the time left at the mean pace since the first call, before which all is warmed
    up."""

    _first: tuple[int, float] | None = None

    def __init__(self, stream: TextIO, noun: str) -> None:
        """noun: what is counted, such as `models timed`."""
        super().__init__(stream)
        self._noun = noun

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        at, since = self._first = self._first or (done, now)
        left_s = None
        if done > at:
            left_s = (now - since) * (total - done) / (done - at)
        if self.due(done == total):
            gone = f"{duration(now - self._started)} gone"
            self.draw(f"[{done}/{total}] {self._noun} | {gone}, {left_words(left_s)}")


class TrainingProgress(LiveLine):
    """Share done, losses, tokens/s of the last step, and the time left."""

    _validation: float | None = None

    def update(self, step: Step, of_steps: int) -> None:
        self._validation = step.validation or self._validation
        if self.due(step.validation is not None or step.number == of_steps):
            self.draw(self.line(step, of_steps))

    def line(self, step: Step, of_steps: int) -> str:
        gone_s = time.monotonic() - self._started
        tokens_per_s = step.tokens / step.number / step.seconds
        validation = "" if self._validation is None else f", validation {self._validation:.3f}"
        return (
            f"[{step.number:,}/{of_steps:,}] loss {step.loss:.3f}{validation} nats/token |"
            f" {tokens_per_s:,.0f} tokens/s | {duration(gone_s)} gone,"
            f" {left_words(step.remaining_s)}"
        )
