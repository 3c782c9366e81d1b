"""One line on stderr for whatever takes longer than two seconds: what is done and how much time is
left.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TextIO

from flashnas.base.text import duration, printable, shortened

if TYPE_CHECKING:
    from flashnas.api.search import Snapshot
    from flashnas.api.train import Step

TICK_S = 1.0
PLAIN_S = 15.0
REDRAW = "\r\x1b[K"  # to the begin of the line, and clear it


def left_words(remaining_s: float | None) -> str:
    """`5 min 10 s left`."""
    return "time left unknown" if remaining_s is None else f"{duration(remaining_s)} left"


class LiveLine:
    """On a terminal one line that is redrawn in place every second; elsewhere a line every 15 seconds
    and whenever something matters."""

    def __init__(self, stream: TextIO, doing: str, noun: str = "") -> None:
        """doing: what the line says where nothing else is known. noun: what is counted, such as
        `models timed`."""
        self._stream = stream
        self._live = stream.isatty()
        self._started = self._last = time.monotonic()
        self._line: Callable[[float], str] | None = None  # of the seconds since the start
        self._doing, self._noun = doing, noun
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live:
            self._write(f"{self._drawn()}\n" if self._line else REDRAW)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._write(REDRAW * self._live + printable(text) + "\n")

    def draw(self, line: Callable[[float], str], matters: bool) -> None:
        """line: of the seconds since the start. matters: now, and not only at the next redrawing."""
        first, self._line = self._line is None, line
        now = time.monotonic()
        if not self._live and (first or matters or now - self._last >= PLAIN_S):
            self._last = now
            self._write(f"{line(now - self._started)}\n")

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            self._write(self._drawn())

    def _drawn(self) -> str:
        gone_s = time.monotonic() - self._started
        line = self._line(gone_s) if self._line else f"{self._doing} | {duration(gone_s)} gone"
        return REDRAW + shortened(line, shutil.get_terminal_size().columns - 1)

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()


class SearchProgress(LiveLine):
    """Share done, the lowest loss, networks by what came of them, and the time left at the pace so
    far."""

    _shown: tuple[float | None, bool] = (None, False)

    def update(self, snapshot: Snapshot) -> None:
        state = snapshot.best_loss, snapshot.done + snapshot.failed == snapshot.total
        changed, self._shown = state != self._shown, state
        self.draw(lambda gone_s: self.line(snapshot, gone_s), changed)

    @staticmethod
    def line(snapshot: Snapshot, elapsed_s: float) -> str:
        gone = f"{duration(elapsed_s)} gone"
        if not snapshot.total:
            return f"networks scored, the answer follows | {gone}"
        best = "no loss yet"
        if snapshot.best_loss is not None:
            at_ms = snapshot.best_latency_ms or 0
            best = f"lowest loss {snapshot.best_loss:.3f} nats/token at {at_ms:,.0f} ms"
        over, known = snapshot.done + snapshot.failed, snapshot.known
        ended = over == snapshot.total
        left = "the answer follows" if ended else left_words(snapshot.remaining_s)
        counts = [f"{over - known} of {snapshot.total - known} networks trained"]
        if snapshot.failed:
            counts.append(f"{snapshot.failed} of them failed")
        if known:
            counts.append(f"{known} known before")
        share = math.floor(100 * (over - known) / max(1, snapshot.total - known))
        return f"[{share:3d} %] {', '.join(counts)} | {gone}, {left} | {best}"


class CountProgress(LiveLine):
    """Done, all, and the time left at the mean pace since the first call, before which all is warmed
    up."""

    _first: tuple[int, float] | None = None

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        at, since = self._first = self._first or (done, now)
        left = left_words((now - since) * (total - done) / (done - at) if done > at else None)
        head = f"[{done}/{total}] {self._noun}"
        self.draw(lambda gone_s: f"{head} | {duration(gone_s)} gone, {left}", done == total)

    __call__ = update


class TrainingProgress(LiveLine):
    """Share done, losses, tokens/s of the last step, and the time left."""

    _validation: float | None = None

    def update(self, step: Step, of_steps: int) -> None:
        self._validation = step.validation or self._validation
        validation = "" if self._validation is None else f", validation {self._validation:.3f}"
        tokens_per_s = step.tokens / step.number / step.seconds
        head = (
            f"[{step.number:,}/{of_steps:,}] loss {step.loss:.3f}{validation} nats/token |"
            f" {tokens_per_s:,.0f} tokens/s"
        )
        left = left_words(step.remaining_s)
        matters = step.validation is not None or step.number == of_steps
        self.draw(lambda gone_s: f"{head} | {duration(gone_s)} gone, {left}", matters)
