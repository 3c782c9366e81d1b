"""The table of a front, for terminals, notebooks and the page; and the answer below it."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from flashnas.algorithms.trial import Trial
from flashnas.architecture.architecture import compressed
from flashnas.base.text import (
    MISSING,
    columns,
    fixed,
    is_number,
    names_text,
    number,
    parameters,
    printable,
    shortened,
    signed,
    with_interval,
)
from flashnas.reporting.objectives import best_baseline
from flashnas.reporting.words import (
    Shown,
    head_of,
    latency_unit,
    misses,
    numbered,
    place_words,
    recommended,
    render_text,
    shown_networks,
    stack_label,
)
from flashnas.run_folder.layout import TRAINED, front_path
from flashnas.run_folder.recorded_run import Answer, RecordedRun, rows
from flashnas.study.answer import DISTINCT
from flashnas.study.purchase import LEAST_GAIN

REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
}
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556

MARKS = {"*": "recommended", "~": "tied", "": ""}
ABOVE = "!"  # behind an interval, or a measured latency, that is above the budget
OWN_COLUMN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
LEAST_SILENCE = 0.0005  # nats, from which on there is a column
WIDTH, NOTEBOOK_WIDTH = 120, 200  # of lines where there is no terminal
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
NOTATION = 30  # letters of the last column, for which others are left out
# columns that are left out where there is no room, in this order
LESSER = ("per token", "memory", "from", "params", "bounds", "best", "loss here")


@dataclass(frozen=True)
class Column:
    """heading: its title. cell: the text of a network. is_text: it begins at the left; numbers end
    at the right."""

    heading: str
    cell: Callable[[Shown], str]
    is_text: bool = False


def front_columns(run: RecordedRun, shown: Sequence[Shown]) -> list[Column]:
    """The columns of the table, from the name of a network to its notation."""
    factor, _ = latency_unit(run)

    def figure(name: str, text: Callable[[Any], str]) -> Callable[[Shown], str]:
        return lambda entry: text(entry.figures.get(name))

    def any_has(name: str) -> bool:
        return any(is_number(entry.figures.get(name)) for entry in shown)

    def time(entry: Shown, name: str) -> str:
        value = entry.figures.get(name)
        return fixed(value * factor if is_number(value) else None, 2)

    def bounds(entry: Shown) -> str:
        lower, upper = time(entry, "lower_ms"), time(entry, "upper_ms")
        text = MISSING if MISSING in (lower, upper) else f"{lower}..{upper}"
        return f"{text} {ABOVE if _exceeds(run, entry) else ' '}" if run.ranks_full else text

    options = {head_of(entry.notation)[1] for entry in shown if ":" in entry.notation}
    shared = options.pop() if len(options) == 1 else ""  # in the heading, once
    result = [Column("#", lambda entry: f"{_number(entry)} {mark_of(run, entry)}".rstrip(), True)]
    result += [
        Column(name, figure(name, lambda value: number(value, 3)))
        for name in run.further_objectives
        if name not in OWN_COLUMN
    ]
    if run.ranks_full:
        result.append(Column("full loss", lambda entry: _full_loss(run, entry)))
        result.append(Column("best", figure("probability_best", lambda value: fixed(value, 2))))
        if any((entry.figures.get("silence") or 0.0) >= LEAST_SILENCE for entry in shown):
            result.append(Column("silence", figure("silence", fixed)))
        if not run.untrained:
            result.append(Column("loss here", figure("loss", fixed)))
        if any_has("expected_recall"):
            result.append(Column("recall", _recall))
    else:
        result.append(Column("loss", figure("loss", fixed)))
        result.append(Column("bits/byte", figure("bits_per_byte", fixed)))
    result.append(Column("latency", lambda entry: time(entry, "latency_ms")))
    result.append(Column("bounds", bounds))
    if any_has("measured_ms"):
        result.append(
            Column("measured", lambda e: time(e, "measured_ms") + (ABOVE if e.missed else ""))
        )
    return [
        *result,
        Column("per token", figure("tpot_ms", lambda value: number(value, 3, "ms"))),
        Column("params", figure("params", parameters)),
        Column("memory", figure("memory_gb", lambda value: number(value, 3, "GB"))),
        Column("from", _origin, True),
        Column(
            f"architecture {shared}".rstrip(),
            lambda entry: compressed(entry.notation).replace(f"{shared}:", ":", 1),
            True,
        ),
    ]


def table_legend(run: RecordedRun, shown: Iterable[Column]) -> Iterable[str]:
    """What the marks of a table mean, and of what the latency is."""
    if run.ranks_full:
        text = (
            f"* recommended  ~ tied  {ABOVE} upper bound above the budget  ± and bounds:"
            " 90 % intervals; full loss: expected, less that of the recommended network"
        )
        headings = {column.heading for column in shown}
        if "recall" in headings:
            text += "; recall: relative to a transformer"
        if "silence" in headings:
            text += "; silence: charge in the ranking for what no training covers"
        if run.answer is not None:
            text += "; without a number: pure stacks and published models"
        yield text
    if place := place_words(run):
        calibration = run.entry("table", "calibration")
        place += f", calibration {calibration}" if calibration else ""
        yield f"latency: of one request in {latency_unit(run)[1]}, {place}"


def mark_of(run: RecordedRun, entry: Shown) -> str:
    """`*` for the network that the answer recommends, `~` for those tied with it."""
    if run.answer is None or entry.hash not in (run.answer.recommended, *run.answer.tied):
        return ""
    return "*" if entry.hash == run.answer.recommended else "~"


def _number(entry: Shown) -> str:
    return entry.name if isinstance(entry, Trial) else ""


def _exceeds(run: RecordedRun, entry: Shown) -> bool:
    upper = entry.figures.get("upper_ms")
    return run.budget_ms is not None and is_number(upper) and upper > run.budget_ms


def _full_loss(run: RecordedRun, entry: Shown) -> str:
    """`+0.026 ± 0.079`, to the recommended network; without an answer, to the lowest of the
    front.
    """
    difference = entry.figures.get("full_loss_difference")
    sd = entry.figures.get("full_loss_difference_sd")
    if is_number(difference) and is_number(sd):
        chosen = run.answer is not None and entry.hash == run.answer.recommended
        return "0" if chosen else with_interval(difference, sd)
    values = [value for e in run.front if is_number(value := e.figures.get("full_loss"))]
    value = entry.figures.get("full_loss")
    return signed(value - min(values)) if is_number(value) else MISSING


def _recall(entry: Shown) -> str:
    recall, sd = (entry.figures.get(f"expected_recall{end}") for end in ("", "_sd"))
    if not is_number(recall):
        return MISSING
    return with_interval(recall, sd, 2) if is_number(sd) else signed(recall, 2)


def _origin(entry: Shown) -> str:
    """`pure d` for a baseline, else `numbered`. At most 22 letters."""
    return shortened(entry.label or numbered(entry), 22)


# -- as text ---------------------------------------------------------------------------------------


def front_table(run: RecordedRun, width: int | None = None) -> str:
    """Finalists, fastest first, one a line; below them, what an answer compares them with; then the
    answer, or the best baseline; figures as predicted for the run's workload. Columns that matter
    less are left out where `width`, by default that of the terminal, has no room."""
    if not run.front:
        started = "the run has" if run.entry("finished") else "the search has not ended:"
        return f"{started} no front yet"
    width = width or shutil.get_terminal_size((WIDTH, 0)).columns
    shown = shown_networks(run)
    chosen = front_columns(run, shown)
    lines = list(_lines(chosen, shown, width))
    for line in table_legend(run, chosen):
        lines += textwrap.wrap(line, width)
    if run.answer is not None:
        lines += ["", *_answer(run, min(width, WIDTH))]
    else:
        programs = runs_in(run.front)
        lines += filter(None, [best_baseline(run), f"runs in: {programs}" if programs else ""])
    return "\n".join([*lines, *misses(run)])


def front_html(run: RecordedRun) -> str:
    """The same for a notebook, which scrolls."""
    return f'<pre style="white-space: pre">{escape(front_table(run, NOTEBOOK_WIDTH))}</pre>'


def _lines(shown: Sequence[Column], entries: Sequence[Shown], width: int) -> Iterable[str]:
    """The lines of a table no wider than that, if the columns that matter make it possible."""
    cells = {c: [c.heading, *(printable(c.cell(entry)) for entry in entries)] for c in shown}
    *others, notation = shown
    least = min(NOTATION, max(map(len, cells[notation])))

    def start() -> int:
        """Where the notation begins."""
        return sum(2 + max(map(len, cells[column])) for column in others)

    for heading in LESSER:
        if start() + least > width:
            others = [column for column in others if column.heading != heading]
    left = [place for place, column in enumerate(others) if column.is_text]
    table = columns(list(zip(*(cells[c] for c in (*others, notation)), strict=True)), left)
    for line, text in zip(table, cells[notation], strict=True):
        room = max(width - start(), NOTATION // 2)
        first, *further = textwrap.wrap(text, room, **WHOLE_WORDS) or [""]
        yield f"{line[: start()]}{first}".rstrip()
        yield from (f"{'':{start()}}{more}" for more in further)


def _answer(run: RecordedRun, width: int) -> Iterable[str]:
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    for about, words in texts:
        yield from textwrap.wrap(
            f"{about:<{wide}}{words}", width, subsequent_indent=" " * wide, **WHOLE_WORDS
        )
    for place, command in enumerate(next_commands(run)):
        yield f"{'' if place else 'next':<{wide}}{command}"


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says: a word or two, and a sentence or two about that; empty for a run
    without one."""
    answer = run.answer
    if answer is None:
        return []
    entries = {entry.hash: entry for entry in run.front}
    chosen, cheapest = recommended(run), entries[answer.cheapest]
    chosen_ms = chosen.latency_ms or 1.0
    outside = {str(row.hash): str(row.outside) for row in rows(run.trials) if row.outside}
    factor, unit = latency_unit(run)

    def ms(latency_ms: float | None) -> str:
        return number(None if latency_ms is None else latency_ms * factor, 4, unit)

    def named(network: Mapping[str, Any]) -> str:
        """The name of a network on the front, else its notation."""
        entry = entries.get(network["hash"])
        return stack_label(network["notation"]) if entry is None else entry.name

    written = render_text(
        "answer.txt",
        run=run,
        answer=answer,
        chosen=chosen,
        cheapest=cheapest,
        saved=1 - (cheapest.latency_ms or 0.0) / chosen_ms,
        standings={standing.hash: standing for standing in answer.standings},
        distinct=DISTINCT,
        least_gain=LEAST_GAIN,
        ms=ms,
        named=named,
        chance=lambda probability: f"{min(max(probability, 0.01), 0.99):.2f}",  # none is 0 or 1
        published=_published(answer, chosen.name, ms),
        reasons=reasons_of(answer),
        evidence=answer.ranked_by.endswith("trainings"),
        trained=sum(len(bought["networks"]) for bought in answer.bought),
        tied=[entries[key].name for key in answer.tied],
        outside=outside.get(answer.recommended),
        outside_too=[e.name for e in run.front if e.hash in outside and e is not chosen],
        runs_in=runs_in(run.front),
    )
    # about, words, about, words, ..
    _, *parts = re.split(r"^== (.*)$", written, flags=re.MULTILINE)
    sentences = [re.sub(r" +([;,])", r"\1", " ".join(part.split())) for part in parts[1::2]]
    return [(about, words) for about, words in zip(parts[::2], sentences, strict=True) if words]


def reasons_of(answer: Answer) -> dict[str, float]:
    """The reasons in words."""
    reasons: Mapping[str, Any] = answer.reasons
    return {REASONS[name]: value for name, value in reasons.items()}


def _published(answer: Answer, chosen: str, ms: Any) -> dict[str, list[str]]:
    """The published models by what is expected of them."""
    verdicts = (f"expected to be worse than {chosen}", f"tied with {chosen}", "better")
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for model in answer.published:
        odds, time = model["probability"], model["latency_ms"]
        verdict = verdicts[(odds > 1 - DISTINCT) + (odds >= DISTINCT)]
        groups[verdict].append(model["name"] + (f" ({ms(time)})" if time is not None else ""))
    return {verdict: names for verdict, names in groups.items() if names}


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A
    network that a CPU trains in full gets the tokens that suit its size."""
    if run.answer is None:
        return []
    entry = recommended(run)
    tokens, params = run.answer.train_tokens, entry.figures.get("params") or SMALL_PARAMS
    if params < SMALL_PARAMS:
        tokens = min(tokens, float(f"{TOKENS_EACH * params:.1g}"))
    gpu = " --device cuda" if tokens >= LARGE_TOKENS else ""
    formats = entry.runs_in or {}
    to = formats.get(run.entry("options", "runtime"), next(iter(formats.values()), "hf"))
    config = front_path(run.path, entry)
    path, out = shlex.quote(str(config)), shlex.quote(str(run.path / TRAINED / config.stem))
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens:.0f}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]


def runs_in(front: Sequence[Trial]) -> str:
    """The programs that each finalist runs in, those with equal ones together; "" where none was
    recorded.
    """
    groups = defaultdict[str, list[str]](list)
    for entry in front:
        if entry.runs_in is not None:
            programs = [f"{program} (export --to {to})" for program, to in entry.runs_in.items()]
            own = "transformers with flashnas installed (export --to hf)"
            groups[", ".join(programs) or own].append(entry.name)
    return "; ".join(f"{names_text(names)}: {programs}" for programs, names in groups.items())
