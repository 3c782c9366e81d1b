"""Weights & Biases: a run in the folder `wandb` of the run folder, offline unless WANDB_MODE says otherwise;
`wandb sync RUN/wandb/offline-*` sends it. The extra `wandb` installs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashnas.tracking import PROJECT, Status, Tracker


class Wandb(Tracker):
    package = "wandb"

    def start(self, config: dict[str, Any]) -> None:
        settings = self.library.Settings(console="off", silent=True, disable_git=True, save_code=False,
                                        x_disable_stats=True)
        self.library.setup(settings)
        self._run = self.library.init(project=os.environ.get("WANDB_PROJECT", PROJECT), dir=str(self.folder),
                                     name=self.folder.name, config=config, settings=settings,
                                     mode=os.environ.get("WANDB_MODE", "offline"))
        self._run.define_metric("*", step_metric="step")  # its own steps only rise

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def artifact(self, path: Path) -> None:
        self._run.save(str(path), base_path=str(self.folder), policy="now")

    def finish(self, status: Status) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)
