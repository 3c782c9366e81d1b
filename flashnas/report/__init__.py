"""A run folder read back as tables, pictures and one HTML page. Plotting libraries load when something is drawn."""

from __future__ import annotations

import os
from pathlib import Path

from flashnas.base.errors import RunError
from flashnas.report.table import front_table
from flashnas.study.run import Finalist, Run

__all__ = ["Finalist", "Run", "front_table", "write_report"]


def write_report(folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and pareto.png into a run folder and return their paths; raises RunError in one line."""
    from flashnas.report.html import render_html
    from flashnas.report.png import draw_png

    run = Run.load(folder)
    html_path, png_path = run.path / "report.html", run.path / "pareto.png"
    try:
        _replace(html_path, lambda path: path.write_text(render_html(run), encoding="utf-8"))
        _replace(png_path, lambda path: draw_png(run).savefig(path, format="png"))
    except OSError as error:
        raise RunError(f"{run.path}: the report cannot be written: {error.strerror or error}") from None
    return html_path, png_path


def _replace(path: Path, write) -> None:
    """Write beside `path` and move into place, so that no half report is ever seen."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
