"""The runs of a folder as a table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import Result, takes
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.settings import Settings, option
from flashnas.base.text import MISSING, duration, number
from flashnas.base.text_table import table
from flashnas.run_folder.layout import CONFIG, JOURNAL, TRIALS


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Settings, where="runs"):
    folder: Path = option(
        Path("experiments/runs"), "folder that holds run folders", positional=True, metavar="FOLDER"
    )


@dataclass(frozen=True)
class RunsResult(Result):
    folder: str
    runs: list[dict[str, Any]]

    def __str__(self) -> str:
        lines = []
        for entry in self.runs:
            name = Path(entry["run"]).resolve().name
            state = entry["state"]
            if "problem" in entry:
                lines.append({"name": name, "state": state, "best": entry["problem"]})
                continue
            if "written_s" in entry:
                state = f"last trial {duration(round(entry['written_s']))} ago"
            best = [f"{objective} {number(value)}" for objective, value in entry["best"].items()]
            started = str(entry["started"] or MISSING)[:16].replace("T", " ")
            more = {"name": name, "state": state, "started": started, "best": ", ".join(best)}
            lines.append({**entry, **more})
        blank = dict.fromkeys(
            ("started", "space", "device", "workload", "budget_ms", "networks", "front"), None
        )
        cells = {
            "<run": "{name}",
            "<state": "{state}",
            "<started": "{started}",
            "<space": "{space}",
            "<device": "{device}",
            "<workload": "{workload}",
            "budget (ms)": "{budget_ms!n}",
            "networks": "{networks}",
            "front": "{front}",
            "<best of each objective": "{best}",
        }
        shown = table([{**blank, **line} for line in lines], cells)
        return shown if lines else f"no runs in {self.folder}"


@takes(RunsOptions)
def runs(options: RunsOptions) -> RunsResult:
    """The searches in a folder, the newest first. Nothing is trained or timed.

    Returns:
        A RunsResult: `folder` and `runs`, one mapping for each: `run`, `state` (finished, not
            finished or unreadable), `space`, `device`, `workload`, `budget_ms`, `trials`, `front`
            and what is best in each objective, `best`; of an unfinished run `written_s`, the
            seconds since its last trial; of one that cannot be read `problem`.

    Raises:
        RunError: the folder does not exist.

    Example:
        >>> import flashnas as fn
        >>> [(entry["run"], entry["state"]) for entry in fn.runs(".").runs]
        [('my_run', 'finished')]
    """
    folder = options.folder
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    entries = [
        _summary(path) for path in (folder, *sorted(folder.iterdir())) if (path / CONFIG).is_file()
    ]
    entries.sort(key=lambda entry: str(entry.get("started")), reverse=True)
    return RunsResult(str(folder), entries)


def _summary(path: Path) -> dict[str, Any]:
    from flashnas.reporting.words import objective_points
    from flashnas.run_folder.recorded_run import RecordedRun

    try:
        run = RecordedRun.load(path)
    except FlashnasError as error:
        return {"run": str(path), "state": "unreadable", "problem": str(error)}
    rows, points = objective_points(run)
    names = sorted(run.objectives, key=lambda name: name != "latency_ms")
    best = {
        name: float(rows[name].iloc[int(column.argmin())])
        for name, column in zip(names, points.T if len(points) else (), strict=False)
    }
    finished = run.entry("finished")
    written = max(
        file.stat().st_mtime for name in (TRIALS, JOURNAL) if (file := path / name).exists()
    )
    return {
        "run": str(path),
        "state": "finished" if finished else "not finished",
        "started": run.entry("started"),
        "seconds": run.entry("seconds"),
        "space": run.entry("space", "name"),
        "workload": run.entry("workload", "name"),
        "device": run.entry("table", "device") or run.entry("table", "name"),
        "budget_ms": run.budget_ms,
        "trials": len(run.trials),
        "networks": len(rows),
        "front": len(run.front),
        "best": best,
        **({} if finished else {"written_s": round(time.time() - written, 1)}),
    }
