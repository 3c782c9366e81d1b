"""report.html: one page that needs nothing else. It runs no script, no request leaves it, and all
text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flashnas.base.errors import RunError
from flashnas.base.system import disk_errors, write_atomic
from flashnas.base.text import duration, flat, is_number, printable, tokens_text, warn_in_a_line
from flashnas.reporting.commands import REQUEST, TIME_IT, next_commands, timing_script
from flashnas.reporting.plot import curves_plot, pareto_plot
from flashnas.reporting.statements import statements
from flashnas.reporting.table import TEXT, front_cells, lesser, table_legend
from flashnas.reporting.words import (
    counts_line,
    render,
    shown_networks,
    tokens_words,
)
from flashnas.run_folder.recorded_run import ModelEvaluation, RecordedRun, rows
from flashnas.trials.objectives import title_of

MAX_FAILURES = 200
# the browser itself refuses every script and every request
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
PLOT = "pareto.png"  # the front, beside the page


def render_html(run: RecordedRun, plot: bytes | None = None) -> str:
    """The whole page. plot: of the front, if it is drawn already.

    Raises:
        RunError: a file of the run is damaged.
    """
    (own, beside), curves, failed = shown_networks(run), curves_plot(run), run.failed
    cells = front_cells(run, own, beside)
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
        facts=[(name, value) for name, value in _facts(run) if value],
        config=[
            (name, "" if value in (None, {}) else str(value))
            for name, value in flat(run.config)
            if name != "command" and not name.startswith("answer.")
        ],
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
    for entry in entry_points(group="flashnas.report_sections"):
        warn_in_a_line(
            f"the report section {printable(entry.name)} is left out: pages have no sections of"
            " packages any more; flashnas 0.2.0 has"
        )
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
            yield from ((entry.name, folder.parent.name, *each) for each in evaluated.figures())


def _facts(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """What was asked, and how it was searched: (name, words), which may be empty."""
    entry = run.entry

    def joined(*parts: Any) -> str:
        return ", ".join(str(part) for part in parts if part not in (None, "", {}, []))

    def numbers(section: str, names: Sequence[str]) -> list[str]:
        values = {name: entry(section, name) for name in names}
        return [f"{name} {value:,}" for name, value in values.items() if is_number(value)]

    device = entry("table", "device") or entry("table", "name")
    yield "device", joined(device, *(entry("table", n) for n in ("stack", "mode", "calibration")))
    yield "workload", joined(entry("workload", "name"), *numbers("workload", REQUEST))
    limits = [f"{name} {value:,g}" for name, value in run.budgets.items()]
    yield "limits", joined(*limits) or "none"
    yield "objectives", joined(*map(title_of, run.objectives))
    if is_number(planned := entry("scorer", "train_tokens")):
        yield "full training", f"{tokens_text(planned)} tokens"
    if is_number(hours := entry("scorer", "train_hours")):
        yield "full training", f"{hours:,g} hours of one GPU"
    yield "space", joined(entry("space", "name"))
    yield "search", joined(entry("sampler"), *numbers("options", ["seed", "trials"]))
    yield "networks", counts_line(run)
    recipe = numbers("recipe", ["width_factor", "tokens"])
    yield "trainings", joined(entry("corpus", "source"), *recipe, tokens_words(run))
    yield "started from", joined(entry("start_from", "runs"))
    yield "run time", joined(duration(entry("seconds"), 1), entry("finished") or "not finished")
