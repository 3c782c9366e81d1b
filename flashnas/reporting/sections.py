"""The sections of report.html that flashnas brings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from flashnas.algorithms.objectives import title_of
from flashnas.base.text import (
    counted,
    duration,
    flat,
    is_number,
    signed,
    tokens_text,
)
from flashnas.reporting.drawing import (
    SOFT,
    NothingToShow,
    Plot,
    operator_colour,
    operator_label,
    operator_order,
    ordered_sources,
)
from flashnas.reporting.drawing import (
    SOURCES as LATENCY_SOURCES,
)
from flashnas.reporting.figures import FIGURES as DRAWN
from flashnas.reporting.figures import draw
from flashnas.reporting.networks import (
    counts_line,
    misses,
    shown_networks,
    tokens_words,
)
from flashnas.reporting.objectives import result_sentence
from flashnas.reporting.page import PICTURE, Section, render
from flashnas.reporting.table import (
    LESSER,
    MARKS,
    front_columns,
    mark_of,
    next_commands,
    reasons_of,
    statements,
    table_legend,
)
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.run_folder.trained import ModelEvaluation

MAX_FAILURES = 200


# -- the head: name, the result or the answer, and the settings ------------------------------------


def header(run: RecordedRun) -> str:
    return render(
        "header.html",
        run=run,
        lead="" if run.answer or run.entry("conversion") else result_sentence(run),
        answer=statements(run),
        commands=next_commands(run),
        bars=_bars(run),
        facts=[*_asked_facts(run), *_search_facts(run)],
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


def _listed(run: RecordedRun, section: str, formats: dict[str, str]) -> list[str]:
    """The numbers above 0 of a section of run.yaml, in words."""
    values = {name: run.entry(section, name) for name in formats}
    return [
        formats[name].format(value)
        for name, value in values.items()
        if is_number(value) and value > 0
    ]


def _asked_facts(run: RecordedRun) -> Iterable[tuple[str, Any, str]]:
    """(name, value, detail) of what was asked."""
    entry = run.entry
    mode, calibration = entry("table", "mode"), entry("table", "calibration")
    stack = [
        str(entry("table", "stack") or ""),
        f"mode {mode}" if mode else "",
        f"calibration {calibration}" if calibration else "",
    ]
    yield "Device", entry("table", "device") or entry("table", "name"), _joined(stack)
    request = {
        "batch": "batch of {}",
        "prompt_tokens": "{:,} tokens in",
        "generated_tokens": "{:,} tokens out",
    }
    workload = _listed(run, "workload", request)
    if entry("workload", "dtype") not in (None, "auto"):
        workload.append(str(entry("workload", "dtype")))
    yield "Workload", entry("workload", "name"), ", ".join(workload)
    limits = [
        f"{name} {'≥' if name == 'throughput_tok_s' else '≤'} {limit:,g}"
        for name, limit in (entry("options", "budgets") or {}).items()
    ]
    asked = entry("options", "budget_ms") if entry("conversion") else None
    if isinstance(asked, list):
        limits = [f"latency_ms ≤ {', '.join(map(str, asked))}"]
    yield "Budget", ", ".join(limits) or "none", ""
    if run.further_objectives or run.ranks_full:
        planned, detail = entry("scorer", "train_tokens"), ""
        if is_number(planned) and planned >= 1:
            detail = f"of a full training on {tokens_text(planned)} tokens"
        yield "Objectives", ", ".join(map(title_of, run.objectives)), detail
    yield "Space", entry("space", "name"), ""


def _search_facts(run: RecordedRun) -> Iterable[tuple[str, Any, str]]:
    """The same of how it was searched."""
    entry = run.entry
    if entry("conversion"):
        yield "Model", entry("options", "model"), f"finished {entry('finished')}"
        return
    seed = f"seed {entry('options', 'seed')}"
    asked = entry("options", "trials")
    ranked_by = run.answer.ranked_by if run.answer is not None else ""
    trained = f"at most {asked} networks to train" if asked else ""
    yield "Search", entry("sampler") or ranked_by, _joined([seed, trained])
    first, _, more = counts_line(run).partition(" · ")
    yield "Trials", first, more
    if entry("recipe"):
        recipe = {"width_factor": "width 1/{}", "tokens": "{:,} tokens each"}
        yield "Trainings", entry("corpus", "source"), _joined(_listed(run, "recipe", recipe))
    earlier = entry("start_from", "runs")
    if isinstance(earlier, list):
        count = counted(int((run.trained["source"] == "run").sum()), "network")
        digest = f"(digest {entry('start_from', 'digest')})"
        words = f"{count} of this run with the loss from there {digest}"
        yield "Started from", ", ".join(map(str, earlier)), words
    if effort := tokens_words(run):
        yield "Effort", effort, ""
    finished = f"finished {entry('finished')}" if entry("finished") else "not finished"
    yield "Run time", duration(entry("seconds"), 1), finished


def _joined(parts: Iterable[str]) -> str:
    return " · ".join(filter(None, parts))


# -- finalists and figures -------------------------------------------------------------------------


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
        lesser=(*LESSER, "silence"),  # left out on narrow screens
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


# -- the rest --------------------------------------------------------------------------------------


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
    failed, outside = run.failed, run.trials[run.trials["state"] == "infeasible"]
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


HEADER = Section("", header)
FINALISTS = Section("Finalists", finalists, PICTURE, front_png, of="search")
FIGURES = Section("Figures", figures, of="search")
EVALUATION = Section("Trained networks, evaluated", evaluation)
SOURCES = Section("Where the latencies come from", sources)
FAILURES = Section("What failed", failures, of="search")
REPRODUCE = Section("How to reproduce", reproduce)
