"""MLflow: a run of the experiment `flashnas` in the store that MLFLOW_TRACKING_URI names, by default
`mlflow.db` in the current folder. The extra `mlflow` installs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashnas.report.text import flat
from flashnas.tracking import PROJECT, Status, Tracker

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
MAX_PARAMS, MAX_LENGTH = 100, 500     # of one call, and of a value


class Mlflow(Tracker):
    package = "mlflow"

    def start(self, config: dict[str, Any]) -> None:
        self._client = client = self.library.MlflowClient()
        experiment = client.get_experiment_by_name(PROJECT)
        number = client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
        self._id = client.create_run(number, run_name=self.folder.name).info.run_id
        params = [self.library.entities.Param(name, str(value)[:MAX_LENGTH])
                  for name, value in flat(config)]
        for first in range(0, len(params), MAX_PARAMS):
            client.log_batch(self._id, params=params[first:first + MAX_PARAMS])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._id, [self.library.entities.Metric(name, value, now_ms, step)
                                          for name, value in metrics.items()])

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def finish(self, status: Status) -> None:
        self._client.set_terminated(self._id, STATUSES[status])
