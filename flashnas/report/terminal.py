"""What commands print of a front and its answer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from flashnas.architecture.folding import compressed
from flashnas.base.hints import printable
from flashnas.report.answer_text import ABOVE, RECOMMENDED, TIED, next_commands, runs_in, statements
from flashnas.report.plot_data import front_unit
from flashnas.report.text import columns, known, number, parameters
from flashnas.report.words import (
    exceeds,
    loss_cells,
    mark_of,
    misses,
    origin_words,
    place_words,
    time_words,
)
from flashnas.runs.run import RecordedRun, rows

OWN_COLUMN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
WIDTH = 150  # of the lines of the answer


def front_table(run: RecordedRun) -> str:
    """Finalists, fastest first, one a line; then the answer, or the best baseline; figures as
    predicted for the run's workload."""
    if not run.front:
        return (
            "the run has no front yet"
            if run.entry("finished")
            else "the search has not ended: no front yet"
        )
    left = (-2, *([0] if run.ranks_full else []))  # the other columns hold numbers
    place = " on ".join(place_words(run))
    if name := run.entry("table", "calibration"):
        place += f", calibration {name}; bounds: 90 % interval"
    latency = [f"latency: of one request, {place}"] if place else []
    below = (
        [*latency, *_results(run)]
        if run.answer is None
        else [
            f"{RECOMMENDED} recommended  {TIED} not told apart from it  {ABOVE} may exceed the"
            " budget; full loss:"
            " expected, as the difference to the recommended one; recall: to a transformer",
            *latency,
            "",
            *_answer(run),
        ]
    )
    return "\n".join([*columns(_lines(run), left), *below, *misses(run)])


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, as two tables."""
    if not run.front:
        return f"<pre>{escape(front_table(run))}</pre>"

    def table(rows: Iterable[Iterable[str]]) -> str:
        lines = (
            "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row)
            for row in rows
        )
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    return table(_lines(run)) + table(
        [*statements(run), *(("", line) for line in (*_results(run), *misses(run)))]
    )


def _lines(run: RecordedRun) -> list[tuple[str, ...]]:
    factor, unit = front_unit(run)
    more = {
        "bound_ms": f"bound ({run.confidence:.0%})" if run.confidence else "bound",
        "measured_ms": "measured",
    }
    shown = [
        name for name in more if any(known(finalist.figures.get(name)) for finalist in run.front)
    ]
    objectives = [name for name in run.further_objectives if name not in OWN_COLUMN]
    losses = (
        ("loss", "bits/byte")
        if not run.ranks_full
        else ("full loss", "P(best)", *([] if run.untrained else ["short loss"]), "recall")
    )
    lines = [
        (
            "#",
            *objectives,
            *losses,
            f"latency ({unit})",
            "bounds",
            *(more[name] for name in shown),
            "params",
            "memory",
            "from",
            "architecture",
        )
    ]
    for finalist in run.front:
        figures, name = finalist.figures, finalist.name
        times = {
            each: time_words(finalist, each, factor)
            for each in ("latency_ms", "lower_ms", "upper_ms", *shown)
        }
        if finalist.missed and "measured_ms" in times:
            times["measured_ms"] += "!"
        bounds = f"{times['lower_ms']}..{times['upper_ms']}"
        if run.ranks_full:
            name = f"{name} {mark_of(run, finalist)}".rstrip()
            bounds += f" {ABOVE if exceeds(run, finalist) else ' '}"
        lines.append(
            (
                name,
                *(number(figures.get(each), 3) for each in objectives),
                *loss_cells(run, finalist),
                times["latency_ms"],
                bounds,
                *(times[each] for each in shown),
                parameters(figures.get("params")),
                number(figures.get("memory_gb"), 3, "GB"),
                origin_words(finalist),
                compressed(finalist.notation),
            )
        )
    return lines


def _answer(run: RecordedRun) -> Iterable[str]:
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    for about, words in texts:
        yield from textwrap.wrap(
            f"{about:<{wide}}{words}",
            WIDTH,
            subsequent_indent=" " * wide,
            break_long_words=False,
            break_on_hyphens=False,
        )
    for place, command in enumerate(next_commands(run)):
        yield f"{'' if place else 'next':<{wide}}{command}"


def _results(run: RecordedRun) -> Iterable[str]:
    """The best baseline of a front by the short loss, and the programs of the finalists, where no
    answer names them."""
    if not (run.baselines.empty or run.ranks_full):
        factor, unit = front_unit(run)
        best = min(rows(run.baselines), key=lambda row: row.loss)
        yield (
            f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at"
            f" {best.latency_ms * factor:.2f} {unit}"
        )
    if run.answer is None and (programs := runs_in(run.front)):
        yield f"runs in: {programs}"
