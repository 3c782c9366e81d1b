"""What commands print of a front and its answer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from flashnas.architecture.folding import compressed
from flashnas.base.hints import printable
from flashnas.report.answer_text import ABOVE, RECOMMENDED, TIED, next_commands, runs_in, statements
from flashnas.report.plot_data import latency_unit
from flashnas.report.text import columns, known, number, parameters
from flashnas.report.words import (
    exceeds,
    loss_cells,
    mark_of,
    misses,
    origin_words,
    place_words,
    shortened,
    time_words,
)
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import RecordedRun, rows

OWN_COLUMN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
WIDTH = 150  # of the lines of the answer


def front_table(run: RecordedRun) -> str:
    """Finalists, fastest first, one a line; then the answer, or the best baseline; figures as predicted for
    the run's workload."""
    if not run.front:
        return ("the run has no front yet" if run.entry("finished") else
                "the search has not ended: no front yet")
    header, lines, left = _cells(run)
    below = _answer(run) if run.answer is not None else [
        *_latency(run), *_best_baseline(run), *_programs(run)]
    return "\n".join([*columns([header, *lines], left), *below, *misses(run)])


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, as two tables."""
    if not run.front:
        return f"<pre>{escape(front_table(run))}</pre>"

    def table(rows: Iterable[Iterable[str]]) -> str:
        lines = ("".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row) for row in rows)
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    header, lines, _ = _cells(run)
    below = [("", line) for line in (*_best_baseline(run), *_programs(run), *misses(run))]
    return table([header, *lines]) + table([*statements(run), *below])


def _cells(run: RecordedRun) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
    """Of the front: its header, its rows, and the columns of text."""
    factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
    more = {"bound_ms": f"bound ({run.confidence:.0%})" if run.confidence else "bound",
            "measured_ms": "measured"}
    shown = {name: title for name, title in more.items()
             if any(known(finalist.figures.get(name)) for finalist in run.front)}
    objectives = tuple(name for name in run.further_objectives if name not in OWN_COLUMN)
    losses = ("loss", "bits/byte") if not run.ranks_full else (
        "full loss", "P(best)", *([] if run.untrained else ["short loss"]), "recall")
    header = ("#", *objectives, *losses, f"latency ({unit})", "bounds", *shown.values(), "params", "memory",
              "from", "architecture")
    left = (len(header) - 2, *([0] if run.ranks_full else []))  # the other columns hold numbers
    return header, [_row(run, finalist, factor, objectives, tuple(shown)) for finalist in run.front], left


def _answer(run: RecordedRun) -> list[str]:
    """What the marks and columns mean, the statements, and the next commands."""
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    lines = [f"{RECOMMENDED} recommended  {TIED} not told apart from it  {ABOVE} may exceed the budget; full"
             " loss: expected, as the difference to the recommended one; recall: to a transformer",
             *_latency(run), ""]
    for about, words in texts:
        lines += textwrap.wrap(f"{about:<{wide}}{words}", WIDTH, subsequent_indent=" " * wide,
                               break_long_words=False, break_on_hyphens=False)
    return [*lines, *(f"{'next' if not place else '':<{wide}}{command}"
                      for place, command in enumerate(next_commands(run)))]


def _latency(run: RecordedRun) -> list[str]:
    """Of what the latencies are, and on which device."""
    return [f"latency: of one request, {' on '.join(place_words(run))}"] if place_words(run) else []


def _row(run: RecordedRun, finalist: FrontEntry, factor: float, objectives: tuple[str, ...],
         shown: tuple[str, ...]) -> tuple[str, ...]:
    figures = finalist.figures
    name = finalist.name
    bounds = "..".join(time_words(finalist, each, factor) for each in ("lower_ms", "upper_ms"))
    if run.ranks_full:
        name = f"{name} {mark_of(run, finalist)}".rstrip()
        bounds += f" {ABOVE if exceeds(run, finalist) else ' '}"
    return (name, *(number(figures.get(each), 3) for each in objectives), *loss_cells(run, finalist),
            time_words(finalist, "latency_ms", factor), bounds,
            *(time_words(finalist, each, factor) + "!" * (each == "measured_ms" and bool(finalist.missed))
              for each in shown),
            parameters(figures.get("params")), number(figures.get("memory_gb"), 3, "GB"),
            shortened(origin_words(finalist)), compressed(finalist.notation))


def _programs(run: RecordedRun) -> list[str]:
    """The programs of the finalists, where no answer names them."""
    text = "" if run.answer is not None else runs_in(run.front)
    return [f"runs in: {text}"] if text else []


def _best_baseline(run: RecordedRun) -> list[str]:
    if run.baselines.empty or run.ranks_full:
        return []
    factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
    best = min(rows(run.baselines), key=lambda row: row.loss)
    return [f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at"
            f" {best.latency_ms * factor:.2f} {unit}"]
