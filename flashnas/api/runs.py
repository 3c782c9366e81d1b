"""The runs of a folder as a table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import Figures, takes
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.settings import Settings, option
from flashnas.runs.layout import CONFIG, JOURNAL, TRIALS


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Settings, where="runs"):
    folder: Path = option(
        Path("experiments/runs"), "folder that holds run folders", positional=True
    )


@takes(RunsOptions)
def runs(options: RunsOptions) -> Figures:
    """The searches in a folder, the newest first. Nothing is trained or timed.

    Returns:
        Figures: `folder` and `runs`, one mapping for each: `run`, `state` (finished, not finished
            or
        unreadable), `space`, `device`, `workload`, `budget_ms`, `trials`, `front` and what is best
        in each objective, `best`; of an unfinished run `written_s`, the seconds since its last
        trial; of one that cannot be read `problem`.

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
    return Figures({"folder": str(folder), "runs": entries}, _table)


def _summary(path: Path) -> dict[str, Any]:
    from flashnas.report.networks import objective_points
    from flashnas.runs.run import RecordedRun

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


def _table(values: dict[str, Any]) -> str:
    from flashnas.base.text import MISSING, columns, duration, number

    def line(entry: dict[str, Any]) -> tuple[str, ...]:
        name = Path(entry["run"]).resolve().name
        if "problem" in entry:
            return (name, "unreadable", *[MISSING] * 7, entry["problem"])
        state = entry["state"]
        if "written_s" in entry:
            state = f"last trial {duration(round(entry['written_s']))} ago"
        best = ", ".join(f"{name} {number(value)}" for name, value in entry["best"].items())
        return (
            name,
            state,
            str(entry["started"] or MISSING)[:16].replace("T", " "),
            *(str(entry[key] or MISSING) for key in ("space", "device", "workload")),
            number(entry["budget_ms"], 5),
            str(entry["networks"]),
            str(entry["front"]),
            best or MISSING,
        )

    if not values["runs"]:
        return f"no runs in {values['folder']}"
    header = (
        "run",
        "state",
        "started",
        "space",
        "device",
        "workload",
        "budget (ms)",
        "networks",
        "front",
        "best of each objective",
    )
    return "\n".join(columns([header, *map(line, values["runs"])], left=range(6)))
