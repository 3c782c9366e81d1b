"""What a run shows besides its line: of a search a report page that follows it, and trackers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.base.files import write_atomic
from flashnas.base.hints import first_line, warn
from flashnas.base.registry import foreign_errors
from flashnas.runs.layout import CONFIG, FRONT, TRIALS
from flashnas.tracking import Trackers as Trackers

if TYPE_CHECKING:
    from flashnas.runs.run import RecordedRun
    from flashnas.runs.snapshot import Progress, Snapshot
    from flashnas.training.trainer import Step as Step

PAGE_EVERY_S = 15.0       # at most so often the page of a running search is written, ..
PAGE_SHARE = 30           # .. and not before so many times the time that it took
SNAPSHOT = ("done", "failed", "stopped", "reused", "infeasible", "best_loss", "best_latency_ms")
FIGURES = ("loss", "full_loss", "expected_recall", "latency_ms", "memory_gb", "params")


class Quiet:
    """Progress that is not shown."""

    def note(self, text: str) -> None: ...
    def update(self, *_: Any) -> None: ...


class Live:
    """The progress object of a search in `out`: passes on what it is told, and keeps the page and the
    trackers up to date. Nothing that fails here ends the search.

    Args:
        shown: the user's own progress object, or None.
        out: the run folder.
        trackers: names of trackers.
    """

    def __init__(self, shown: Progress | None, out: Path, trackers: tuple[str, ...]) -> None:
        self._shown, self._out = shown or Quiet(), out
        self.trackers = Trackers(trackers, out / CONFIG, warn if shown is None else shown.note)
        self._over = self._logged = 0
        self._written_ns: int | None = 0  # when the page's trials were written; None: it cannot be
        self._next = time.monotonic() + PAGE_EVERY_S

    def note(self, text: str) -> None:
        with foreign_errors(("progress object", self._shown)):
            self._shown.note(text)

    def update(self, snapshot: Snapshot) -> None:
        with foreign_errors(("progress object", self._shown)):
            self._shown.update(snapshot)
        over = snapshot.done + snapshot.failed + snapshot.stopped
        if over > self._over:
            self._over = over
            self.trackers.log({f"search/{name}": getattr(snapshot, name) for name in SNAPSHOT}, over)
        if time.monotonic() >= self._next:
            self._follow()

    def log_trials(self, run: RecordedRun) -> None:
        """Tell the trackers of the trials that are new since the last call."""
        for row in run.trials.iloc[self._logged:].to_dict("records"):
            self.trackers.log({f"trial/{name}": row[name] for name in FIGURES}, int(row["number"]))
        self._logged = len(run.trials)

    def artifacts(self) -> list[Path]:
        """What the run leaves for people."""
        return [self._out / CONFIG, *sorted((self._out / FRONT).glob("*.yaml")),
                *sorted(self._out.glob("*.png")), self._out / "report.html"]

    def _follow(self) -> None:
        """Write the page again if there are new trials."""
        started = time.monotonic()
        try:
            changed_ns = (self._out / TRIALS).stat().st_mtime_ns if (self._out / TRIALS).exists() else 0
            if self._written_ns not in (changed_ns, None):
                self._written_ns = changed_ns
                from flashnas.report.html import render_html
                from flashnas.runs.run import RecordedRun

                run = RecordedRun.load(self._out)
                self.log_trials(run)
                write_atomic(self._out / "report.html", render_html(run))
        except Exception as error:
            self._written_ns = None
            self.note(f"report.html is not kept up to date: {type(error).__name__}: {first_line(error)}")
        ended = time.monotonic()
        self._next = ended + max(PAGE_EVERY_S, PAGE_SHARE * (ended - started))


class TrackedTraining:
    """The progress object of a training that also tells trackers."""

    def __init__(self, shown: Any, trackers: Trackers) -> None:
        self._shown, self._trackers = shown, trackers
        self.note = shown.note

    def update(self, step: Step, of_steps: int) -> None:
        self._shown.update(step, of_steps)
        self._trackers.log({"train/loss": step.loss, "train/validation_loss": step.validation,
                            "train/tokens": step.tokens, "train/gradient_norm": step.gradient_norm,
                            "train/lr_factor": step.lr_factor, "train/step_s": step.seconds}, step.number)


@contextlib.contextmanager
def tracked(names: tuple[str, ...], out: Path, progress: Any | None, ranks: Any) -> Iterator[Any]:
    """The progress object for a training in `out`, around it; of several processes the first one tells
    trackers."""
    note = warn if progress is None else progress.note
    trackers = ranks.run_on_all(lambda: Trackers(names, out / "train.yaml", note))
    if not ranks.first:
        yield progress or Quiet()
        return
    with trackers.finishing(lambda: [out / "train.yaml", out / "log.csv"]):
        yield TrackedTraining(progress or Quiet(), trackers)
