"""The table of a front, for terminals, notebooks and the page by the same columns; and the answer below
it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np

from flashnas.base.text import (
    MISSING,
    columns,
    fixed,
    is_number,
    number,
    parameters,
    printable,
    signed,
    with_interval,
)
from flashnas.latency.metrics import SERVING, UPPER_END
from flashnas.reporting.commands import TRAINER, next_commands
from flashnas.reporting.statements import statements
from flashnas.reporting.words import (
    LEAST_SILENCE,
    PUBLISHED,
    exceeds,
    front_loads_in,
    latency_unit,
    loads_short,
    place_words,
    recommended,
    shape_of,
    shown_networks,
)
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.trials.pareto import QUALITY
from flashnas.trials.trial import Trial

Cells = dict[str, list[str]]  # heading -> cells, a network each
# objectives and budgets that have a column anyway
OWN_COLUMN = {
    "latency_ms": "latency",
    "tpot_ms": "per token",
    "params": "params",
    "active_params": "active",
    "memory_gb": "memory",
    "expected_recall": "recall",
}
TEXT = ("#", "loads in", "architecture")  # columns that begin at the left
WIDTH, NOTEBOOK_WIDTH = 120, 200  # of lines where there is no terminal
NOTATION = 70  # letters of the last column, for which others are left out
# columns that are left out where there is no room, in this order
LESSER = (
    "per token",
    "memory",
    "active",
    "params",
    "bounds",
    "loads in",
    "charge",
    "loss here",
    "recall",
)
MARKS = {"*": "* recommended", "~": "~ may be as good"}
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def front_cells(
    run: RecordedRun, own: Sequence[Trial], beside: Sequence[Trial], is_page: bool = True
) -> Cells:
    """The columns of the table, from the name of a network to its notation. own, beside: as of
    `shown_networks`. is_page: say where the attention of a family is."""
    shown, (factor, _), cells = [*own, *beside], latency_unit(run), Cells()

    def any_has(name: str) -> bool:
        return any(is_number(getattr(entry, name)) for entry in shown)

    def add(heading: str, text: Callable[[Any], str], name: str = "") -> None:
        """text: of a network, or of its figure of this name."""
        found = [text(getattr(entry, name) if name else entry) for entry in shown]
        cells[heading] = list(map(printable, found))

    def time(entry: Trial, name: str) -> str:
        value = getattr(entry, name)
        return fixed(value * factor if is_number(value) else None, 2)

    def bounds(entry: Trial) -> str:
        ends = [time(entry, name) for name in ("lower_ms", "upper_ms")]
        return MISSING if MISSING in ends else "..".join(ends)

    def marked(entry: Trial, name: str, unit: str = "") -> str:
        return "! " * exceeds(run, entry, name) + number(getattr(entry, name), 3, unit)

    names = [f"{entry.name} {mark_of(run, entry)}".strip() for entry in own]
    cells["#"] = names + [""] * len(beside)
    asked = [name for name in (*run.objectives, *run.budgets) if name not in QUALITY]
    for name in dict.fromkeys((*asked, *filter(any_has, SERVING))):
        if name not in OWN_COLUMN:
            add(name, partial(marked, name=name))
    if not run.ranks_full:
        add("loss", fixed, "loss")
        if any_has("bits_per_byte"):
            add("bits/byte", fixed, "bits_per_byte")
    if run.ranks_full or run.answer is not None:
        add("full loss", partial(_full_loss, run))
    if run.ranks_full:
        if any((entry.silence or 0.0) >= LEAST_SILENCE for entry in shown):
            add("charge", fixed, "silence")
        if not run.untrained:
            add("loss here", fixed, "loss")
        if any_has("expected_recall"):
            add("recall", lambda e: _interval(e.expected_recall, e.expected_recall_sd, 2))
    add("latency", lambda entry: "! " * exceeds(run, entry) + time(entry, "latency_ms"))
    add("bounds", bounds)
    if any_has("measured_ms"):
        add("measured", lambda entry: time(entry, "measured_ms") + "!" * bool(entry.missed))
    add("per token", partial(marked, name="tpot_ms", unit="ms"))
    add("params", parameters, "params")
    if any((entry.active_params or np.nan) < (entry.params or 0) for entry in shown):
        add("active", parameters, "active_params")
    add("memory", partial(number, digits=3, unit="GB"), "memory_gb")
    if not front_loads_in(run):
        add("loads in", _loads_in)
    add("architecture", partial(shape_of, with_attention=is_page), "notation")
    return cells


def table_legend(
    run: RecordedRun, own: Sequence[Trial], beside: Sequence[Trial], headings: Collection[str]
) -> list[str]:
    """Of how many networks these are, what the marks mean, and of what the latency is."""
    front = sum(entry.front_number is not None for entry in own)
    rest = " and the recommended one" * (front < len(own))
    marks, parts = {mark_of(run, entry) for entry in own}, []
    if front < len(run.front) or rest:
        parts = [f"{front} of {len(run.front)} networks of the front{rest} (all: pareto/)"]
    parts += [words for mark, words in MARKS.items() if mark in marks]
    if any(exceeds(run, entry, name) for entry in (*own, *beside) for name in UPPER_END):
        parts.append("! the latency may be above the budget")
    if "full loss" in headings:
        parts.append("± 90 % intervals")
        parts.append("full loss: expected, less that of the recommended network")
    if run.ranks_full and "recall" in headings:
        parts.append("recall: relative to a transformer")
    if "charge" in headings:
        parts.append("charge: in the ranking, for what no training covers")
    if run.ranks_full and run.answer is not None:
        parts.append(
            "without a number: the best of other families, and published shapes, trained alike"
        )
    place, unit = place_words(run), latency_unit(run)[1]
    if place and (calibration := run.entry("table", "calibration")):
        place += f", calibration {calibration}"
    if place and (program := run.entry("table", "program")):
        place += f", {program}"
    over = [f"{entry.name} ({', '.join(entry.missed)})" for entry in run.front if entry.missed]
    measured = f"over the budget as measured: {', '.join(over)}" * bool(over)
    if over and run.answer is not None and recommended(run).missed:
        measured += f"; {recommended(run).name} is recommended by its predicted times"
    latency = f"latency: of one request in {unit}, {place}" * bool(place)
    return list(filter(None, ("; ".join(parts), latency, front_loads_in(run), measured)))


def lesser(run: RecordedRun) -> list[str]:
    """The columns that may be left out, those that matter least first: none of an objective, or of a
    budget on a time."""
    asked = (*run.objectives, *(name for name in run.budgets if name in UPPER_END))
    return [heading for heading in LESSER if heading not in map(OWN_COLUMN.get, asked)]


def mark_of(run: RecordedRun, entry: Trial) -> str:
    """`*` for the network that the answer recommends, `~` for those tied with it."""
    if run.answer is None or not entry.hash:
        return ""
    if entry.hash == run.answer.recommended:
        return "*"
    return "~" if entry.hash in run.answer.tied else ""


def _full_loss(run: RecordedRun, entry: Trial) -> str:
    if mark_of(run, entry) == "*":
        return "0"
    return _interval(entry.full_loss_difference, entry.full_loss_difference_sd)


def _interval(value: Any, sd: Any, digits: int = 3) -> str:
    """`+0.026 ± 0.079`."""
    if not is_number(value):
        return MISSING
    return with_interval(value, sd, digits) if is_number(sd) else signed(value, digits)


def _loads_in(entry: Trial) -> str:
    """Of a published model nothing, since only its shape is compared."""
    return MISSING if entry.label == PUBLISHED else loads_short(entry.architecture)


# -- as text ---------------------------------------------------------------------------------------


def front_table(run: RecordedRun, width: int | None = None) -> str:
    """Networks of the front, fastest first, one a line; below them, what an answer compares them
    with; then the answer; figures as predicted for the run's workload. Columns that matter less are
    left out where `width`, by default that of the terminal, has no room."""
    width = width or shutil.get_terminal_size((WIDTH, 0)).columns
    own, beside = shown_networks(run)
    if own or beside:
        cells = front_cells(run, own, beside, is_page=False)
        _leave_out(cells, lesser(run), len(own), width)
        lines = list(_lines(cells, width))
        for line in table_legend(run, own, beside, cells):
            lines += textwrap.wrap(line, width)
    else:
        started = "the run has" if run.entry("finished") else "the search has not ended:"
        lines = [f"{started} no front yet"]
    return "\n".join([*lines, "", *_answer(run, min(width, WIDTH))]).rstrip()


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, which scrolls."""
    return f'<pre style="white-space: pre">{escape(front_table(run, NOTEBOOK_WIDTH))}</pre>'


def _leave_out(cells: Cells, lesser: Iterable[str], own: int, width: int) -> None:
    """Take out columns until the rest fits beside the notation of the front, or none may be left out.
    own: networks of the front."""
    widths = {heading: max(map(len, [heading, *texts])) for heading, texts in cells.items()}
    texts = cells["architecture"]
    room = width - min(NOTATION, max(map(len, ["architecture", *(texts[:own] or texts)])))
    for heading in lesser:
        if sum(2 + widths[each] for each in cells) - 2 - widths["architecture"] > room:
            cells.pop(heading, None)


def _lines(cells: Mapping[str, Sequence[str]], width: int) -> Iterable[str]:
    """The lines of a table; the notation goes on below itself."""
    *others, texts = ([heading, *column] for heading, column in cells.items())
    left = [place for place, column in enumerate(others) if column[0] in TEXT]
    ends = ["|"] * len(texts)  # below each other, before the notation
    for line, text in zip(columns(list(zip(*others, ends, strict=True)), left), texts, strict=True):
        start = line.removesuffix("|")
        yield from textwrap.wrap(
            text,
            max(width, len(start) + NOTATION // 4),
            initial_indent=start,
            subsequent_indent=" " * len(start),
            **WHOLE_WORDS,
        ) or [start.rstrip()]


def _answer(run: RecordedRun, width: int) -> Iterable[str]:
    texts = statements(run)
    wide = max((len(about) for about, _ in texts), default=0) + 2
    for about, words in texts:
        yield from textwrap.wrap(
            f"{about:<{wide}}{words}", width, subsequent_indent=" " * wide, **WHOLE_WORDS
        )
    for command in next_commands(run):
        start, trainer, _ = command.partition(TRAINER)
        yield f"{'next':<{wide}}{start}{trainer}{', whole in report.html' * bool(trainer)}"
