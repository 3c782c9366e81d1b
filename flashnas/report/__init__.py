"""A run folder as tables, pictures and one HTML page. Plotting libraries load when something is
drawn.
"""

from __future__ import annotations

from pathlib import Path

from flashnas.base.errors import RunError
from flashnas.base.system import atomic_file, disk_errors, write_atomic
from flashnas.report.terminal import front_html, front_table
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
    from flashnas.report.finalists_section import FINALISTS
    from flashnas.report.html import render_html
    from flashnas.report.sections import SECTIONS

    run = source if isinstance(source, RecordedRun) else RecordedRun.load(source)
    page = run.path / "report.html"
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        write_atomic(page, render_html(run))
        for section in SECTIONS.values():
            picture = section.png(run) if section.picture else None
            if picture is not None:
                with atomic_file(run.path / section.picture) as part:
                    picture.savefig(part, format="png")
    return page, run.path / FINALISTS.picture
