"""A run folder as tables, pictures and one HTML page. Matplotlib loads when something is drawn."""

from __future__ import annotations

from pathlib import Path

from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.system import disk_errors, write_atomic
from flashnas.report.table import front_html, front_table
from flashnas.runs.run import RecordedRun

__all__ = ["RecordedRun", "front_html", "front_table", "write_report"]


def write_report(source: str | Path | RecordedRun) -> tuple[Path, Path]:
    """Write report.html and its still pictures, pareto.png first, into a run folder; source: it, or
    its run.

    Returns:
        The paths of report.html and pareto.png.

    Raises:
        RunError: the folder is not a run, is damaged, or cannot be written.
        PluginError: a section of another package cannot be loaded or fails.
    """
    from flashnas.report.page import PICTURE, SECTIONS, render_html

    run = source if isinstance(source, RecordedRun) else RecordedRun.load(source)
    page = run.path / "report.html"
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        write_atomic(page, render_html(run))
        for section in SECTIONS.values():
            if section.picture:
                with foreign_errors(("report section", section.png)):
                    picture = section.png(run)
                if picture is not None:
                    write_atomic(run.path / section.picture, picture)
    return page, run.path / PICTURE
