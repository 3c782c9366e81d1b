"""A run folder read back as tables, pictures and one HTML page. Plotting libraries load when something is drawn."""

from __future__ import annotations

from pathlib import Path

from flashnas.base.errors import RunError
from flashnas.base.files import atomic_file, disk_errors, write_atomic
from flashnas.report.table import front_table
from flashnas.study.front import FrontEntry
from flashnas.study.run import Run

__all__ = ["FrontEntry", "Run", "front_table", "write_report"]


def write_report(folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and pareto.png into a run folder and return their paths; raises RunError in one line."""
    from flashnas.report.html import render_html
    from flashnas.report.png import draw_png

    run = Run.load(folder)
    html_path, png_path = run.path / "report.html", run.path / "pareto.png"
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        write_atomic(html_path, render_html(run))
        with atomic_file(png_path) as part:
            draw_png(run).savefig(part, format="png")
    return html_path, png_path
