"""The page of a search that trains, kept up to date while it runs."""

from __future__ import annotations

import time
from pathlib import Path

from flashnas.base import text
from flashnas.base.registry import foreign_errors
from flashnas.base.system import write_atomic
from flashnas.reporting.page import render_html
from flashnas.run_folder.layout import TRIALS
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.study.progress import Progress, Snapshot

PAGE_EVERY_S = 15.0  # at most so often the page of a running search is written, ..
PAGE_SHARE = 30  # .. and not before so many times the time that it took


class LivePage:
    """The progress object of a search in `out`: passes on what it is told, and keeps the page up to
    date. A page that cannot be written does not end the search.

    Args:
        shown: the user's own progress object.
        out: the run folder.
    """

    def __init__(self, shown: Progress, out: Path) -> None:
        self._shown, self._out = shown, out
        self._written_ns: int | None = 0  # when the page's trials were written; None: it cannot be
        self._next = time.monotonic() + PAGE_EVERY_S

    def note(self, text: str) -> None:
        with foreign_errors(("progress object", self._shown)):
            self._shown.note(text)

    def update(self, snapshot: Snapshot) -> None:
        with foreign_errors(("progress object", self._shown)):
            self._shown.update(snapshot)
        if time.monotonic() >= self._next:
            self._follow()

    def _follow(self) -> None:
        """Write the page again if there are new trials."""
        started = time.monotonic()
        try:
            changed_ns = (
                (self._out / TRIALS).stat().st_mtime_ns if (self._out / TRIALS).exists() else 0
            )
            if self._written_ns not in (changed_ns, None):
                self._written_ns = changed_ns
                write_atomic(self._out / "report.html", render_html(RecordedRun.load(self._out)))
        except Exception as error:
            self._written_ns = None
            self.note(
                f"report.html is not kept up to date: {type(error).__name__}: {text.first_line(error)}"
            )
        ended = time.monotonic()
        self._next = ended + max(PAGE_EVERY_S, PAGE_SHARE * (ended - started))
