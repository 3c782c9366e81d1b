"""Trackers: where the figures of a search or a training go while it runs, besides its own folder.

A tracker is a class with four methods. flashnas ships four, each in a file and an extra of its own; another
package adds one by an entry point of the group `flashnas.trackers`, whose object is a class of Tracker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from flashnas.base.errors import ConfigError
from flashnas.base.hints import first_line
from flashnas.base.registry import Registry, foreign_errors
from flashnas.base.yaml import read_yaml

Status = Literal["finished", "failed", "interrupted"]
PROJECT = "flashnas"      # of all runs, in trackers that have projects


class Tracker(ABC):
    """One run in another program's records. A method that raises ends the tracker, and never the run.

    package: what is imported as `library` before anything runs.

    Args:
        folder: of the run; its name is the name of the run.
    """

    package: ClassVar[str] = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library: Any = importlib.import_module(self.package) if self.package else None

    @abstractmethod
    def start(self, config: dict[str, Any]) -> None:
        """The run has begun, and its folder is there. config: its run.yaml or train.yaml, as plain data."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Finite figures at a step. Steps of one name rise; those of different names are not in one order."""

    @abstractmethod
    def artifact(self, path: Path) -> None:
        """A file of the folder, at the end of the run."""

    @abstractmethod
    def finish(self, status: Status) -> None:
        """The run has ended: nothing is called afterwards."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "flashnas.trackers", {
    name: f"flashnas.tracking.to_{name}:{cls}" for name, cls in (
        ("trackio", "Trackio"), ("tensorboard", "TensorBoard"), ("mlflow", "Mlflow"), ("wandb", "Wandb"))},
    ConfigError, base="flashnas.tracking:Tracker", summaries={
        "trackio": "A local database, shown by `trackio show`.",
        "tensorboard": "Event files in the run folder, shown by `tensorboard --logdir`.",
        "mlflow": "The tracking store that MLFLOW_TRACKING_URI names, by default mlflow.db here.",
        "wandb": "Weights & Biases; offline unless WANDB_MODE says otherwise."})


class Trackers:
    """The trackers of one run. One that fails is left out with one line, and the run goes on.

    Args:
        config: run.yaml or train.yaml, which is there once something is logged; its folder is that of the
            run.

    Raises:
        ConfigError: for an unknown name, or a library that is not installed.
    """

    def __init__(self, names: Sequence[str], config: Path, note: Callable[[str], None]) -> None:
        self._config, self._note, self._started = config, note, False
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            cls = TRACKERS[name]
            try:
                with foreign_errors(("tracker", cls)):
                    self._trackers[name] = cls(config.parent)
            except ImportError as error:  # of one that flashnas ships
                raise ConfigError(f"tracker {name!r} needs the package {error.name or name}:"
                                  f" pip install 'flashnas[{name}]'") from None

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Pass on the finite ones of these figures."""
        finite = {name: float(value) for name, value in metrics.items()
                  if isinstance(value, int | float) and math.isfinite(value)}
        if not self._started and self._trackers:
            self._started = True
            self._each(lambda tracker: tracker.start(json.loads(json.dumps(read_yaml(self._config),
                                                                           default=str))))
        if finite:
            self._each(lambda tracker: tracker.log(finite, step))

    @contextlib.contextmanager
    def finishing(self, artifacts: Callable[[], Sequence[Path]]) -> Iterator[None]:
        """Around the run: whatever ends it is its status. artifacts: returns the files to keep."""
        status: Status = "failed"
        try:
            yield
            status = "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "interrupted"
            raise
        finally:
            if self._started:
                for path in filter(Path.is_file, artifacts()):
                    self._each(lambda tracker, path=path: tracker.artifact(path))  # type: ignore[misc]
                self._each(lambda tracker: tracker.finish(status))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
                    call(tracker)
            except Exception as error:  # whatever a foreign library raises
                del self._trackers[name]
                self._note(f"tracker {name} failed and is left out: {type(error).__name__}:"
                           f" {first_line(error)}")
