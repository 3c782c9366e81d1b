"""What commands print of a front and its answer."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.text import MISSING, columns, known, number, parameters, printable
from flashnas.report.answer_text import ABOVE, RECOMMENDED, TIED, statements
from flashnas.report.beside import head_of, shown_networks
from flashnas.report.next_steps import next_commands, runs_in
from flashnas.report.plot_data import front_unit
from flashnas.report.words import (
    best_baseline,
    exceeds,
    fixed,
    loss_cells,
    loss_columns,
    mark_of,
    misses,
    origin_words,
    place_words,
)
from flashnas.runs.run import RecordedRun
from flashnas.search.trial import Trial

OWN_COLUMN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
WIDTH, NOTEBOOK_WIDTH = 120, 200  # of lines where there is no terminal
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
NOTATION = 30  # letters of the last column, for which others are left out
LESSER = (
    "per token",
    "memory",
    "from",
    "params",
    "bounds",
    "best",
    "short loss",
)  # columns, in this order
LEGEND = (
    f"{RECOMMENDED} recommended  {TIED} not told apart  {ABOVE} upper bound above the budget  ± and bounds:"
    " 90 % intervals; full loss: expected, to the recommended one; recall: to a transformer"
)
BESIDE = "; without a number: pure stacks and published models"
SILENCE = "; silence: charged in the ranking for what no publication vouches for"


def front_table(run: RecordedRun, width: int | None = None) -> str:
    """Finalists, fastest first, one a line; below them, what an answer compares them with; then the
    answer, or the best baseline; figures as predicted for the run's workload. Columns that matter
    less are left out where `width`, by default that of the terminal, has no room."""
    if not run.front:
        return (
            "the run has no front yet"
            if run.entry("finished")
            else "the search has not ended: no front yet"
        )
    width = width or shutil.get_terminal_size((WIDTH, 0)).columns
    table = finalists_table(run)
    legend = [textwrap.wrap(line, width) for line in table_legend(run, table)]
    answer = _results(run) if run.answer is None else ["", *_answer(run, min(width, WIDTH))]
    lines = _fitted(table, width, run.ranks_full)
    return "\n".join([*lines, *itertools.chain(*legend), *answer, *misses(run)])


def table_legend(run: RecordedRun, table: Mapping[str, Any]) -> Iterable[str]:
    if run.ranks_full:
        yield LEGEND + SILENCE * ("silence" in table) + BESIDE * (run.answer is not None)
    if place := " on ".join(place_words(run)):
        calibration = run.entry("table", "calibration")
        place += f", calibration {calibration}" * bool(calibration)
        yield f"latency: of one request in {front_unit(run)[1]}, {place}"


def _fitted(table: dict[str, list[str]], width: int, names_left: bool) -> Iterable[str]:
    """The lines of a table no wider than that, if the columns that matter make it possible."""
    table = dict(table)
    notations = list(table.values())[-1]
    least = min(NOTATION, max(map(len, notations)))
    for name in LESSER:
        if _width(table) + least > width:
            table.pop(name, None)
    left = (-2, *([0] if names_left else [])) if "from" in table else (0,) * names_left
    lines = columns(list(zip(*table.values(), strict=True)), left)
    start = _width(table)
    for line, notation in zip(lines, notations, strict=True):
        room = max(width - start, NOTATION // 2)
        first, *further = textwrap.wrap(printable(notation), room, **WHOLE_WORDS) or [""]
        yield f"{line[:start]}{first}".rstrip()
        yield from (f"{'':{start}}{text}" for text in further)


def _width(table: dict[str, list[str]]) -> int:
    """Of all columns but the last one, with the spaces behind them."""
    return sum(
        2 + max(len(printable(cell)) for cell in column) for column in list(table.values())[:-1]
    )


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, which scrolls."""
    return f'<pre style="white-space: pre">{escape(front_table(run, NOTEBOOK_WIDTH))}</pre>'


def finalists_table(run: RecordedRun) -> dict[str, list[str]]:
    """The columns by title, each with the title first."""
    factor, _ = front_unit(run)
    more = {
        "bound_ms": f"bound ({run.confidence:.0%})" if run.confidence else "bound",
        "measured_ms": "measured",
    }
    shown = shown_networks(run)
    for name in list(more):
        if not any(known(entry.figures.get(name)) for entry in shown):
            del more[name]
    objectives = [name for name in run.further_objectives if name not in OWN_COLUMN]
    losses = loss_columns(run, shown)
    titles = [*objectives, *losses, "latency", "bounds", *more.values(), "per token"]
    options = {head_of(entry.notation)[1] for entry in shown if ":" in entry.notation}
    shared = options.pop() if len(options) == 1 else ""  # said once, in the title
    titles = ["#", *titles, "params", "memory", "from", f"architecture {shared}".rstrip()]
    lines = [titles]
    for entry in shown:
        figures = entry.figures
        times = {
            name: fixed(value * factor if known(value := figures.get(name)) else None, 2)
            for name in ("latency_ms", "lower_ms", "upper_ms", *more)
        }
        if entry.missed and "measured_ms" in times:
            times["measured_ms"] += "!"
        bounds = MISSING
        if MISSING not in (times["lower_ms"], times["upper_ms"]):
            bounds = f"{times['lower_ms']}..{times['upper_ms']}"
        bounds += f" {ABOVE if exceeds(run, entry) else ' '}" * run.ranks_full
        lines.append(
            [
                f"{entry.name} {mark_of(run, entry)}".rstrip() * isinstance(entry, Trial),
                *(number(figures.get(name), 3) for name in objectives),
                *loss_cells(run, entry, losses),
                times["latency_ms"],
                bounds,
                *(times[name] for name in more),
                number(figures.get("tpot_ms"), 3, "ms"),
                parameters(figures.get("params")),
                number(figures.get("memory_gb"), 3, "GB"),
                origin_words(entry),
                compressed(entry.notation).replace(f"{shared}:", ":", 1),
            ]
        )
    return {
        title: list(column) for title, column in zip(titles, zip(*lines, strict=True), strict=True)
    }


def _answer(run: RecordedRun, width: int) -> Iterable[str]:
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    for about, words in texts:
        yield from textwrap.wrap(
            f"{about:<{wide}}{words}", width, subsequent_indent=" " * wide, **WHOLE_WORDS
        )
    for place, command in enumerate(next_commands(run)):
        yield f"{'' if place else 'next':<{wide}}{command}"


def _results(run: RecordedRun) -> Iterable[str]:
    """The best baseline of a front by the short loss, and the programs of the finalists, where no
    answer names them."""
    if baseline := best_baseline(run):
        yield baseline
    if run.answer is None and (programs := runs_in(run.front)):
        yield f"runs in: {programs}"
