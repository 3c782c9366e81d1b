"""TensorBoard: event files in the folder `tensorboard` of the run. The extra `tensorboard` installs it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flashnas.tracking import Status, Tracker


class TensorBoard(Tracker):
    package = "tensorboard"

    def start(self, config: dict[str, Any]) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(self.folder / "tensorboard"))
        text = yaml.safe_dump(config, sort_keys=False)
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))  # as code

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def artifact(self, path: Path) -> None:
        """Pictures only; other files lie beside the events."""
        if path.suffix == ".png":
            from matplotlib.image import imread

            self._writer.add_image(path.stem, imread(path), dataformats="HWC")

    def finish(self, status: Status) -> None:
        self._writer.add_text("status", status)
        self._writer.close()
