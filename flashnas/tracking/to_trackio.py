"""Trackio: a local database in its own folder (TRACKIO_DIR). The extra `trackio` installs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashnas.tracking import PROJECT, Status, Tracker


class Trackio(Tracker):
    package = "trackio"

    def start(self, config: dict[str, Any]) -> None:
        self._run = self.library.init(PROJECT, name=self.folder.name, config=config, resume="allow",
                                       embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def artifact(self, path: Path) -> None:
        artifact = self.library.Artifact(f"{self.folder.name}-{path.name}", type="file")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        self.library.finish()  # the run's own method lets Trackio finish it again when Python ends
