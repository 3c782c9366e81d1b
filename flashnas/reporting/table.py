"""The table of a front, for terminals, notebooks and the page by the same columns; and the answer below
it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from flashnas.base.text import (
    MISSING,
    columns,
    fixed,
    is_number,
    number,
    parameters,
    printable,
    shortened,
    signed,
    with_interval,
)
from flashnas.latency.metrics import SERVING
from flashnas.reporting.commands import next_commands
from flashnas.reporting.statements import statements
from flashnas.reporting.words import (
    LEAST_SILENCE,
    PUBLISHED,
    Shown,
    exceeds,
    front_loads_in,
    head_of,
    latency_unit,
    loads_short,
    misses,
    numbered,
    place_words,
    shape_of,
    shown_networks,
)
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.trials.trial import Trial

# objectives that have a column anyway
OWN_COLUMN = {"params": "params", "memory_gb": "memory", "expected_recall": "recall"}
WIDTH, NOTEBOOK_WIDTH = 120, 200  # of lines where there is no terminal
NOTATION = 70  # letters of the last column, for which others are left out
# columns that are left out where there is no room, in this order
LESSER = (
    "per token",
    "memory",
    "from",
    "active",
    "params",
    "bounds",
    "loads in",
    "charge",
    "loss here",
    "recall",
)
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class Column:
    """heading: its title. cell: the text of a network. is_text: it begins at the left; numbers end
    at the right."""

    heading: str
    cell: Callable[[Shown], str]
    is_text: bool = False


def front_columns(run: RecordedRun, shown: Sequence[Shown], is_page: bool = True) -> list[Column]:
    """The columns of the table, from the name of a network to its notation. is_page: say where the
    attention of a family is."""
    factor, _ = latency_unit(run)

    def figure(name: str, text: Callable[[Any], str]) -> Callable[[Shown], str]:
        return lambda entry: text(entry.figures.get(name))

    def any_has(name: str) -> bool:
        return any(is_number(entry.figures.get(name)) for entry in shown)

    def time(entry: Shown, name: str) -> str:
        value = entry.figures.get(name)
        return fixed(value * factor if is_number(value) else None, 2)

    def latency(entry: Shown) -> str:
        return "! " * exceeds(run, entry) + time(entry, "latency_ms")

    def bounds(entry: Shown) -> str:
        ends = [time(entry, name) for name in ("lower_ms", "upper_ms")]
        return MISSING if MISSING in ends else "..".join(ends)

    options = {head_of(entry.notation)[1] for entry in shown if ":" in entry.notation}
    shared = options.pop() if len(options) == 1 else ""  # in the heading, once
    result = [Column("#", lambda entry: f"{_number(entry)} {mark_of(run, entry)}".strip(), True)]
    result += [
        Column(name, figure(name, lambda value: number(value, 3)))
        for name in dict.fromkeys((*run.further_objectives, *filter(any_has, SERVING)))
        if name not in OWN_COLUMN
    ]
    if not run.ranks_full:
        result.append(Column("loss", figure("loss", fixed)))
        result.append(Column("bits/byte", figure("bits_per_byte", fixed)))
    if run.ranks_full or run.answer is not None:
        result.append(Column("full loss", lambda entry: _full_loss(run, entry)))
    if run.ranks_full:
        if any((entry.figures.get("silence") or 0.0) >= LEAST_SILENCE for entry in shown):
            result.append(Column("charge", figure("silence", fixed)))
        if not run.untrained:
            result.append(Column("loss here", figure("loss", fixed)))
        if any_has("expected_recall"):
            result.append(Column("recall", _recall))
    result += [Column("latency", latency), Column("bounds", bounds)]
    if any_has("measured_ms"):
        result.append(
            Column("measured", lambda e: time(e, "measured_ms") + ("!" if e.missed else ""))
        )
    result += [
        Column("per token", figure("tpot_ms", lambda value: number(value, 3, "ms"))),
        Column("params", figure("params", parameters)),
        *[Column("active", figure("active_params", parameters))] * any(map(_is_sparse, shown)),
        Column("memory", figure("memory_gb", lambda value: number(value, 3, "GB"))),
        Column("from", _origin, True),
    ]
    if not front_loads_in(run):
        result.append(Column("loads in", _loads_in, True))

    def architecture(entry: Shown) -> str:
        return shape_of(entry.notation, is_page).replace(f"{shared}:", ":", 1)

    return [*result, Column(f"architecture {shared}".rstrip(), architecture, True)]


def table_legend(run: RecordedRun, shown: Sequence[Shown], chosen: Iterable[Column]) -> list[str]:
    """Of how many networks these are, what the marks mean, and of what the latency is."""
    headings = {column.heading for column in chosen}
    marks = {mark_of(run, entry) for entry in shown}
    front = sum(entry in run.front for entry in shown)
    rest = " and the recommended one" * any(
        isinstance(entry, Trial) and entry not in run.front for entry in shown
    )
    parts = [f"{front} of {len(run.front)} networks of the front{rest} (all: pareto/)"]
    parts = parts if front < len(run.front) or rest else []
    parts += [words for mark, words in MARKS.items() if mark in marks]
    if any(exceeds(run, entry) for entry in shown):
        parts.append("! the latency may be above the budget")
    if "full loss" in headings:
        parts.append("± 90 % intervals")
        parts.append("full loss: expected, less that of the recommended network")
    if run.ranks_full:
        if "recall" in headings:
            parts.append("recall: relative to a transformer")
        if "charge" in headings:
            parts.append("charge: in the ranking, for what no training covers")
        if run.answer is not None:
            parts.append(
                "without a number: the best of other families, and published shapes, trained alike"
            )
    place = place_words(run)
    calibration = run.entry("table", "calibration")
    program = run.entry("table", "program")
    place += f", calibration {calibration}" * bool(place and calibration)
    place += f", {program}" * bool(place and program)
    unit = latency_unit(run)[1]
    lines = ["; ".join(parts), f"latency: of one request in {unit}, {place}" * bool(place)]
    return [line for line in (*lines, front_loads_in(run), *misses(run)) if line]


MARKS = {"*": "* recommended", "~": "~ may be as good"}


def lesser(run: RecordedRun) -> list[str]:
    """The columns that may be left out, those that matter least first: none of an objective."""
    asked = [OWN_COLUMN.get(name) for name in run.objectives]
    return [heading for heading in LESSER if heading not in asked]


def mark_of(run: RecordedRun, entry: Shown) -> str:
    """`*` for the network that the answer recommends, `~` for those tied with it."""
    if run.answer is None or not entry.hash:
        return ""
    if entry.hash == run.answer.recommended:
        return "*"
    return "~" if entry.hash in run.answer.tied else ""


def _number(entry: Shown) -> str:
    return entry.name if isinstance(entry, Trial) else ""


def _is_sparse(entry: Shown) -> bool:
    active, params = (entry.figures.get(name) for name in ("active_params", "params"))
    return is_number(active) and is_number(params) and active < params


def _full_loss(run: RecordedRun, entry: Shown) -> str:
    """`+0.026 ± 0.079`, to the recommended network; without an answer, to the lowest of the
    front.
    """
    difference = entry.figures.get("full_loss_difference")
    sd = entry.figures.get("full_loss_difference_sd")
    if is_number(difference) and is_number(sd):
        return "0" if mark_of(run, entry) == "*" else with_interval(difference, sd)
    values = [value for e in run.front if is_number(value := e.figures.get("full_loss"))]
    value = entry.figures.get("full_loss")
    return signed(value - min(values)) if is_number(value) else MISSING


def _recall(entry: Shown) -> str:
    recall, sd = (entry.figures.get(f"expected_recall{end}") for end in ("", "_sd"))
    if not is_number(recall):
        return MISSING
    return with_interval(recall, sd, 2) if is_number(sd) else signed(recall, 2)


def _loads_in(entry: Shown) -> str:
    """Of a published model nothing, since only its shape is compared."""
    return MISSING if entry.label == PUBLISHED else loads_short(entry.architecture)


def _origin(entry: Shown) -> str:
    """`pure d` for a baseline, else `numbered`. At most 22 letters."""
    return shortened(entry.label or numbered(entry), 22)


def sources_text(entry: Shown) -> str:
    """`62% imported, 38% derived`: of which rows of the latency table the milliseconds are."""
    shares = sorted(getattr(entry, "sources", {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{share:.0%} {name}" for name, share in shares if share >= 0.005)


# -- as text ---------------------------------------------------------------------------------------


def front_table(run: RecordedRun, width: int | None = None) -> str:
    """Networks of the front, fastest first, one a line; below them, what an answer compares them
    with; then the answer; figures as predicted for the run's workload. Columns that matter less are
    left out where `width`, by default that of the terminal, has no room."""
    width = width or shutil.get_terminal_size((WIDTH, 0)).columns
    lines: list[str] = []
    if shown := shown_networks(run):
        chosen = _fitting(run, front_columns(run, shown, is_page=False), shown, width)
        lines += _lines(chosen, shown, width)
        for line in table_legend(run, shown, chosen):
            lines += textwrap.wrap(line, width)
    else:
        started = "the run has" if run.entry("finished") else "the search has not ended:"
        lines.append(f"{started} no front yet")
    return "\n".join([*lines, "", *_answer(run, min(width, WIDTH))]).rstrip()


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, which scrolls."""
    return f'<pre style="white-space: pre">{escape(front_table(run, NOTEBOOK_WIDTH))}</pre>'


def _width_of(column: Column, entries: Sequence[Shown]) -> int:
    return max(len(column.heading), *(len(printable(column.cell(entry))) for entry in entries))


def _fitting(
    run: RecordedRun, shown: Sequence[Column], entries: Sequence[Shown], width: int
) -> list[Column]:
    """The columns that fit beside the notation of the front, if leaving out those that matter less
    makes it possible."""
    *others, notation = shown
    named = [entry for entry in entries if isinstance(entry, Trial)]
    room = width - min(NOTATION, _width_of(notation, named or entries))
    for heading in lesser(run):
        if sum(2 + _width_of(column, entries) for column in others) > room:
            others = [column for column in others if column.heading != heading]
    return [*others, notation]


def _lines(shown: Sequence[Column], entries: Sequence[Shown], width: int) -> Iterable[str]:
    """The lines of a table; the notation goes on below itself."""
    cells = [[c.heading, *(printable(c.cell(entry)) for entry in entries)] for c in shown]
    start = sum(2 + _width_of(column, entries) for column in shown[:-1])
    left = [place for place, column in enumerate(shown[:-1]) if column.is_text]
    for line, text in zip(columns(list(zip(*cells, strict=True)), left), cells[-1], strict=True):
        room = max(width - start, NOTATION // 4)
        first, *further = textwrap.wrap(text, room, **WHOLE_WORDS) or [""]
        yield f"{line[:start]}{first}".rstrip()
        yield from (f"{'':{start}}{more}" for more in further)


def _answer(run: RecordedRun, width: int) -> Iterable[str]:
    texts = statements(run)
    wide = max((len(about) for about, _ in texts), default=0) + 2
    for about, words in texts:
        yield from textwrap.wrap(
            f"{about:<{wide}}{words}", width, subsequent_indent=" " * wide, **WHOLE_WORDS
        )
    yield from (f"{'next':<{wide}}{command}" for command in next_commands(run)[:1])
