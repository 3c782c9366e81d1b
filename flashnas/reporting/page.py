"""report.html: one page that needs nothing else. It runs no script, no request leaves it, and all
text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flashnas.base.errors import RunError
from flashnas.base.system import disk_errors, write_atomic
from flashnas.base.text import flat, printable
from flashnas.reporting.commands import TIME_IT, next_commands, timing_script
from flashnas.reporting.plot import curves_plot, pareto_plot
from flashnas.reporting.statements import statements
from flashnas.reporting.table import TEXT, front_cells, lesser, table_legend
from flashnas.reporting.words import (
    counts_line,
    render,
    shown_networks,
)
from flashnas.run_folder.recorded_run import ModelEvaluation, RecordedRun, rows

MAX_FAILURES = 200
# the browser itself refuses every script and every request
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
PLOT = "pareto.png"  # the front, beside the page
# entries of run.yaml that say most of what was asked and how
MADE = (
    *("table.device", "table.stack", "table.calibration", "workload.name", "options.budgets"),
    *("objectives", "space.name", "scorer.train", "sampler", "options.trials", "options.seed"),
    *("corpus.source", "recipe.tokens", "totals.tokens", "start_from.runs", "finished", "seconds"),
)


def render_html(run: RecordedRun, plot: bytes | None = None) -> str:
    """The whole page. plot: of the front, if it is drawn already.

    Raises:
        RunError: a file of the run is damaged.
    """
    (own, beside), curves, failed = shown_networks(run), curves_plot(run), run.failed
    cells = front_cells(run, own, beside)
    config = [
        (name, str(value))
        for name, value in flat(run.config)
        if value not in (None, {}) and name != "command" and not name.startswith("answer.")
    ]
    columns = {"#": cells.pop("#"), "architecture": cells.pop("architecture"), **cells}
    page = render(
        "page.html",
        run=run,
        policy=Markup(POLICY),
        style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        answer=statements(run),
        commands=next_commands(run),
        front=_data_uri(plot or pareto_plot(run).png()),
        curves=None if curves is None else _data_uri(curves.png()),
        shown=[*own, *beside],
        own=len(own),
        columns=columns,
        text=TEXT,
        lesser=lesser(run),
        legend=table_legend(run, own, beside, columns),
        evaluated=list(_evaluated(run)),
        failures=list(failed["reason"].value_counts().items()),
        failed=list(rows(failed.head(MAX_FAILURES))),
        networks=counts_line(run),
        made=[entry for entry in config if entry[0].startswith(MADE)],
        config=config,
    )
    # a terminal obeys control characters of foreign text where somebody reads the file there
    return "\n".join(map(printable, page.split("\n")))


def write_report(run: RecordedRun) -> tuple[Path, Path]:
    """Write report.html and pareto.png into a run folder, and the script that times networks of
    it.

    Returns:
        The paths of both.

    Raises:
        RunError: the folder is damaged, or cannot be written.
    """
    page, plot = run.path / "report.html", run.path / PLOT
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        png = pareto_plot(run).png()
        write_atomic(page, render_html(run, png))
        write_atomic(plot, png)
        if script := timing_script(run) if run.answer else None:
            write_atomic(run.path / TIME_IT, script)
    return page, plot


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _evaluated(run: RecordedRun) -> Iterator[tuple[Any, ...]]:
    """Bits per byte of the networks in `RUN/trained`."""
    for entry, folder in run.trained_models():
        if evaluated := ModelEvaluation.read(folder):
            for text in evaluated.texts.values():
                yield entry.name, folder.parent.name, text
