"""One line on stderr for whatever takes longer than two seconds: what is done and how much time is
left.
"""

from __future__ import annotations

import functools
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

REDRAW_S = 0.5
TICK_S = 1.0
PLAIN_S = 15.0


def left_words(remaining_s: float | None) -> str:
    """`5 min 10 s left`."""
    return "time left unknown" if remaining_s is None else f"{duration(remaining_s)} left"


class LiveLine:
    """On a terminal one line redrawn in place, at least every second; elsewhere a line every 15
    seconds and whenever something matters."""

    def __init__(self, stream: TextIO, doing: str) -> None:
        """doing: what the line says where nothing else is known."""
        self._stream = stream
        self._live = stream.isatty()
        self._last = 0.0
        self._width = 0
        self._started = time.monotonic()
        self._doing = self._usually = doing
        self._line: Callable[[float], str] | None = None  # of the seconds since the start
        self._lock = threading.RLock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._lock:
            if self._live and self._width and self._line is not None:
                self._stream.write("\n")
            else:
                self._clear()

    def note(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            self._stream.write(printable(text) + "\n")
            self._stream.flush()
            self._doing = self._usually

    def hint(self, text: str) -> None:
        """What is done until the next line, on a terminal alone."""
        with self._lock:
            self._doing, self._line = text, None
            if self._live:
                self._write(text)

    def draw(self, line: Callable[[float], str], matters: bool) -> None:
        """line: of the seconds since the start. matters: now, and not only at the next redrawing."""
        with self._lock:
            self._line = line
            now = time.monotonic()
            if matters or now - self._last >= (REDRAW_S if self._live else PLAIN_S):
                self._write(line(now - self._started))

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            with self._lock:
                if time.monotonic() - self._last >= TICK_S and not self._ended.is_set():
                    gone_s = time.monotonic() - self._started
                    gone = f"{self._doing} | {duration(gone_s)} gone"
                    self._write(self._line(gone_s) if self._line else gone)

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        self._clear()
        if self._live:
            text = shortened(text, shutil.get_terminal_size().columns - 1)
            self._width = len(text)
        self._stream.write(text if self._live else text + "\n")
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
        self.draw(functools.partial(self.line, snapshot), improved or ended)

    @staticmethod
    def line(snapshot: Snapshot, elapsed_s: float) -> str:
        best = "no loss yet"
        if snapshot.best_loss is not None:
            at_ms = snapshot.best_latency_ms or 0
            best = f"lowest loss {snapshot.best_loss:.3f} nats/token at {at_ms:,.0f} ms"
        if not snapshot.total:
            return f"networks scored, the answer follows | {duration(elapsed_s)} gone"
        over = snapshot.done + snapshot.failed
        ended = over == snapshot.total
        left = "the answer follows" if ended else left_words(snapshot.remaining_s)
        time_left = f"{duration(elapsed_s)} gone, {left}"
        known = snapshot.known
        counts = [
            f"{over - known} of {snapshot.total - known} networks trained",
            *(
                f"{count} {what}"
                for count, what in ((snapshot.failed, "of them failed"), (known, "known before"))
                if count
            ),
        ]
        share = (over - known) / max(1, snapshot.total - known)
        return f"[{math.floor(100 * share):3d} %] {', '.join(counts)} | {time_left} | {best}"


class CountProgress(LiveLine):
    """Done, all, and the time left at the mean pace since the first call, before which all is warmed
    up."""

    _first: tuple[int, float] | None = None

    def __init__(self, stream: TextIO, noun: str, doing: str = "") -> None:
        """noun: what is counted, such as `models timed`."""
        super().__init__(stream, doing)
        self._noun = noun

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        at, since = self._first = self._first or (done, now)
        left_s = None
        if done > at:
            left_s = (now - since) * (total - done) / (done - at)
        head, left = f"[{done}/{total}] {self._noun}", left_words(left_s)
        self.draw(lambda gone_s: f"{head} | {duration(gone_s)} gone, {left}", done == total)


class TrainingProgress(LiveLine):
    """Share done, losses, tokens/s of the last step, and the time left."""

    _validation: float | None = None

    def update(self, step: Step, of_steps: int) -> None:
        self._validation = step.validation or self._validation
        matters = step.validation is not None or step.number == of_steps
        self.draw(functools.partial(self.line, step, of_steps), matters)

    def line(self, step: Step, of_steps: int, gone_s: float) -> str:
        tokens_per_s = step.tokens / step.number / step.seconds
        validation = "" if self._validation is None else f", validation {self._validation:.3f}"
        return (
            f"[{step.number:,}/{of_steps:,}] loss {step.loss:.3f}{validation} nats/token |"
            f" {tokens_per_s:,.0f} tokens/s | {duration(gone_s)} gone,"
            f" {left_words(step.remaining_s)}"
        )
