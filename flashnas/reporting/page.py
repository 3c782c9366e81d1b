"""report.html: one page that needs nothing else. It runs no script, no request leaves it, and all
text is escaped. Other packages may add to its sections.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flashnas.base.errors import RunError
from flashnas.base.registry import Registry, foreign_errors
from flashnas.base.system import disk_errors, write_atomic
from flashnas.base.text import flat, is_number, printable, signed
from flashnas.reporting.drawing import (
    SOFT,
    NothingToShow,
    Plot,
    operator_colour,
    operator_label,
    operator_order,
    ordered_sources,
)
from flashnas.reporting.drawing import SOURCES as LATENCY_SOURCES
from flashnas.reporting.figures import FIGURES as DRAWN
from flashnas.reporting.figures import draw
from flashnas.reporting.objectives import result_sentence
from flashnas.reporting.statements import next_commands, reasons_of, statements
from flashnas.reporting.table import (
    IN_THE_REPORT,
    LESSER,
    MARKS,
    front_columns,
    mark_of,
    table_legend,
)
from flashnas.reporting.words import asked_facts, misses, render, search_facts, shown_networks
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.run_folder.trained import ModelEvaluation

MAX_FAILURES = 200
# the browser itself refuses every script and every request
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
PICTURE = "pareto.png"  # the front, beside the page
RELOAD_S = 30  # of the page of a run that has not ended


@dataclass(frozen=True)
class Section:
    """One section of the report. Another package adds one by an entry point that names it:

        [project.entry-points."flashnas.report_sections"]
        energy = "flashnas_energy:SECTION"

    title: the heading; empty: none. of: `search` or `conversion`, the runs that have it; empty: both.
    html: the content below the heading, from what the run folder holds; nothing is evaluated again.
        It returns markup (markupsafe), as jinja2 templates give it; plain text is escaped. An empty
        text leaves the section out.
    picture: name of a still picture that is written beside report.html, such as `energy.png`.
    png: the content of that picture; None: it is not written.
    """

    title: str
    html: Callable[[RecordedRun], str]
    picture: str = ""
    png: Callable[[RecordedRun], bytes | None] = lambda run: None
    of: str = ""

    def shown(self, run: RecordedRun) -> bool:
        return self.of in ("", "conversion" if run.entry("conversion") else "search")


# statements that are opened on demand
FOLDED = (
    *IN_THE_REPORT,
    "transformer",
    "train both",
    "assumed",
    "outside",
    "settles it",
    "time it",
)


# -- the sections that flashnas brings -------------------------------------------------------------


def header(run: RecordedRun) -> str:
    return render(
        "header.html",
        run=run,
        lead="" if run.answer or run.entry("conversion") else result_sentence(run),
        answer=statements(run),
        folded=FOLDED,
        commands=next_commands(run),
        bars=_bars(run),
        facts=[] if run.entry("conversion") else [*asked_facts(run), *search_facts(run)],
    )


def _bars(run: RecordedRun) -> list[dict[str, Any]]:
    """The reasons of the answer: words, value and the place of the bar, in percent of the width."""
    reasons = {} if run.answer is None else reasons_of(run.answer)
    widest = max([abs(value) for value in reasons.values()] or [0.0]) or 1.0
    return [
        {
            "words": words,
            "value": signed(value),
            "good": value < 0,
            "left": 50 + min(50 * value / widest, 0),
            "width": 50 * abs(value) / widest,
        }
        for words, value in reasons.items()
    ]


def finalists(run: RecordedRun) -> str:
    """The table of the terminal, the operators of each network below its figures."""
    shown = shown_networks(run)
    columns = front_columns(run, shown)
    networks = [entry.architecture for entry in shown if entry.architecture is not None]
    kinds = {spec.kind for network in networks for spec in network.operators}
    colours = {kind: operator_colour(kind) for kind in sorted(kinds, key=operator_order)}
    measured = ""
    if any(is_number(entry.figures.get("measured_ms")) for entry in run.front):
        over = "".join(misses(run)) or "every one keeps its budgets"
        measured = f" Measured: the whole model, timed on the device. {over[0].upper()}{over[1:]}."
    return render(
        "finalists.html",
        run=run,
        columns=columns[1:-1],  # the others have a place of their own
        lesser=LESSER,  # left out on narrow screens
        shown=shown,
        marks=[MARKS[mark_of(run, entry)] for entry in shown],
        figure=_figure(run, "front") if run.ranks_full and shown else None,
        measured=measured,
        table_legend=list(table_legend(run, columns)),
        colours=colours,
        legend=[(kind, operator_label(kind).rpartition(" · ")[2]) for kind in colours],
    )


def figures(run: RecordedRun) -> str:
    """The figures that have something to show, and why others have not. Where the full loss ranks,
    the front is above the table of the finalists."""
    unfit = {
        "front": run.ranks_full,
        "curves": run.untrained,
        "objectives": not run.further_objectives,
    }
    shown, empty = [], []
    for name in DRAWN:
        if not unfit.get(name):
            try:
                shown.append(_figure(run, name))
            except NothingToShow as reason:
                empty.append(str(reason))
    return render("figures.html", figures=shown, empty=empty)


def _figure(run: RecordedRun, name: str) -> dict[str, Any]:
    """A figure for wide and for narrow screens, with its caption."""
    return {
        "name": name,
        "caption": render("captions.html", run=run, name=name),
        "wide": Markup(draw(run, name).svg()),
        "narrow": Markup(draw(run, name, narrow=True).svg()),
    }


def front_png(run: RecordedRun) -> bytes:
    try:
        return draw(run, "front").png()
    except NothingToShow as reason:
        return Plot("Nothing to show yet", str(reason), []).png()


def evaluation(run: RecordedRun) -> str:
    """Bits per byte and tasks of the networks in `RUN/trained`."""
    lines = [
        (entry.name, folder.parent.name, *figure)
        for entry, folder in run.trained_models()
        if (evaluated := ModelEvaluation.read(folder))
        for figure in evaluated.figures()
    ]
    return render("evaluation.html", lines=lines) if lines else ""


def sources(run: RecordedRun) -> str:
    """How much of each finalist's latency was measured, imported, derived or taken from a
    roofline.
    """
    shown = {entry.name: entry.sources for entry in run.front if entry.sources}
    names = ordered_sources(name for shares in shown.values() for name in shares)
    facts = {name: LATENCY_SOURCES[name] for name in names if name in LATENCY_SOURCES}
    return (
        render(
            "sources.html",
            shown=shown,
            colours={name: facts.get(name, (SOFT,))[0] for name in names},
            meanings="; ".join(f"{name}: {meaning}" for name, (_, _, meaning) in facts.items()),
        )
        if shown
        else ""
    )


def failures(run: RecordedRun) -> str:
    """Failed trials by reason and one by one; infeasible ones by reason."""
    failed = run.failed
    outside = run.trials[run.trials["state"] == "infeasible"]
    return render(
        "failures.html",
        reasons=list(failed["reason"].value_counts().items()),
        failed=list(rows(failed.head(MAX_FAILURES))),
        more=max(0, len(failed) - MAX_FAILURES),
        outside=list(outside["reason"].value_counts().items()),
    )


def reproduce(run: RecordedRun) -> str:
    """The command, and everything in run.yaml that fixes the result."""
    entries = {
        name: None if value in (None, {}) else str(value)
        for name, value in flat(run.config)
        if name != "command" and not name.startswith("answer.")
    }
    converted = bool(run.entry("conversion"))
    return render(
        "reproduce.html", command=run.entry("command"), entries=entries, converted=converted
    )


SECTIONS: Registry[Section] = Registry(
    "report section",
    "flashnas.report_sections",
    {
        "header": Section("", header),
        "conversion": "flashnas.reporting.conversion:CONVERSION",
        "finalists": Section("Finalists", finalists, PICTURE, front_png, of="search"),
        "figures": Section("Figures", figures, of="search"),
        "evaluation": Section("Trained networks, evaluated", evaluation),
        "sources": Section("Where the latencies come from", sources),
        "failures": Section("What failed", failures, of="search"),
        "reproduce": Section("How to reproduce", reproduce),
    },
    error=RunError,
    base="flashnas.reporting.page:Section",
)


# -- the page --------------------------------------------------------------------------------------


def render_html(run: RecordedRun) -> str:
    """The whole page: the shipped sections, then those of other packages.

    Raises:
        RunError: a file of the run is damaged.
        PluginError: a section of another package fails.
    """
    shown = []
    for section in SECTIONS.values():
        with foreign_errors(("report section", section.html)):
            if section.shown(run) and (body := section.html(run)):
                shown.append((section.title, body))
    page = render(
        "page.html",
        run=run,
        policy=Markup(POLICY),
        sections=shown,
        style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        reload_s=None if run.entry("finished") else RELOAD_S,
        written=time.strftime("%H:%M:%S"),
        flashnas=run.entry("flashnas"),
    )
    # a terminal obeys control characters of foreign text where somebody reads the file there
    return "\n".join(map(printable, page.split("\n")))


def write_report(source: str | Path | RecordedRun) -> tuple[Path, Path]:
    """Write report.html and its still pictures, pareto.png first, into a run folder; source: it, or
    its run.

    Returns:
        The paths of report.html and pareto.png.

    Raises:
        RunError: the folder is not a run, is damaged, or cannot be written.
        PluginError: a section of another package cannot be loaded or fails.
    """
    run = source if isinstance(source, RecordedRun) else RecordedRun.load(source)
    page = run.path / "report.html"
    with disk_errors(f"{run.path}: the report cannot be written", RunError):
        write_atomic(page, render_html(run))
        for section in SECTIONS.values():
            if section.picture:
                with foreign_errors(("report section", section.png)):
                    picture = section.png(run)
                if picture is not None:
                    write_atomic(run.path / section.picture, picture)
    return page, run.path / PICTURE
