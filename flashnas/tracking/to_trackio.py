"""Trackio: a local database in its own folder (TRACKIO_DIR). The extra `trackio` installs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashnas.tracking import PROJECT, Status, Tracker


class Trackio(Tracker):
    """A local database, shown by `trackio show`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import trackio

        self._trackio = trackio

    def start(self, config: dict[str, Any]) -> None:
        self._run = self._trackio.init(PROJECT, name=self.folder.name, config=config, resume="allow",
                                       embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def artifact(self, path: Path) -> None:
        artifact = self._trackio.Artifact(f"{self.folder.name}-{path.name}", type="file")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        self._trackio.finish()  # the run's own method lets Trackio finish it again when Python ends
