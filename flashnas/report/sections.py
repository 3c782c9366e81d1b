"""The sections of report.html that flashnas ships, and the registry of all sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from flashnas.architecture.folding import compressed
from flashnas.base.errors import RunError
from flashnas.base.quantities import tokens_text
from flashnas.base.registry import Registry
from flashnas.report.answer_text import (
    REASONS,
    RECOMMENDED,
    TIED,
    next_commands,
    reasons_of,
    signed,
    statements,
)
from flashnas.report.palette import INK, SOURCE_MEANING, operator_colour, operator_label, operator_order
from flashnas.report.plot_data import latency_unit
from flashnas.report.plots import FIGURES, FURTHER
from flashnas.report.section import Section, render
from flashnas.report.text import MISSING, duration, known, number, parameters
from flashnas.report.words import (
    counts_line,
    exceeds,
    fixed,
    full_loss_words,
    loss_words,
    mark_of,
    misses,
    origin_words,
    recall_words,
    shortened,
    tokens_words,
)
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import task_scores, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECTIONS: Registry[Section] = Registry("report section", "flashnas.report_sections", {
    "header": "flashnas.report.sections:HEADER",
    "finalists": "flashnas.report.sections:FINALISTS",
    "figures": "flashnas.report.sections:FIGURES_SECTION",
    "trust": "flashnas.report.trust_section:TRUST",
    "published": "flashnas.report.published_section:PUBLISHED",
    "evaluation": "flashnas.report.evaluation_section:EVALUATED",
    "sources": "flashnas.report.sections:SOURCES",
    "failures": "flashnas.report.sections:FAILURES",
    "reproduce": "flashnas.report.sections:REPRODUCE"}, error=RunError,
    base="flashnas.report.section:Section")

SOURCE_COLOURS = {"measured": "#2B2D5B", "imported": "#55578F", "derived": "#ABADD0", "roofline": "#E69F00"}
MAX_FAILURES = 200
MARKS = {RECOMMENDED: "recommended", TIED: "not told apart", "": ""}
BOUND = {"throughput_tok_s": "≥"}
CAPTIONS = {
    "front": "Each point is a network that was trained for a short time. Its latency comes from the latency"
             " table, at full width. No network to the lower left of the black line was found. Diamonds"
             " are pure-operator models: one token mixer throughout, as wide as the same budget allows."
             " Hover for the architecture.",
    "objectives": "The other objectives of the search against latency. Named points are on the front, some"
                  " of them for"
                  " these objectives alone. Colours and rings as in the first figure.",
    "hypervolume": "How much of the plane the front covers after each trained network, without repeats. The"
                   " line is"
                   " flat while nothing new enters the front.",
    "operators": "Left: the architectures of the front. Right: all networks that the search trained, without"
                 " baselines."
                 " A kind that is taller on the left is more frequent in the front than in what was tried.",
    "latency-by-operator": "Predicted from the latency table for the run's workload. An imported or measured"
                           " time is"
                           " solid; a derived or roofline time is hatched and has wider bounds.",
    "latency-by-kernel": "Matrix products include the head. Calibration, where the table has one, is the"
                         " difference"
                         " between the sum of single kernels and measured whole models. Tables that were"
                         " measured"
                         " operator by operator show whole operators in place of kernels.",
    "curves": "The start of training is left out. Networks whose final losses differ by less than the noise"
              " between seeds are not ranked by one run.",
}
FULL_CAPTIONS = {
    "front": "The loss to expect of a full training, as the difference to the recommended network, with its"
             " 90 %"
             " interval: 0 is the recommended one, and lower is better. It rests on what others have trained"
             " in full,"
             " and on short trainings where there are any. Networks whose interval reaches 0 may be as good."
             " The front"
             " is found with one standard deviation added, and for a floor of recall as well. Diamonds are"
             " the best"
             " stacks of one token mixer throughout. Hover for the architecture.",
    "short-loss": "What the short trainings themselves ended with. They rank width well, but neither depth"
                  " nor mixes of"
                  " operators, and therefore only enter the expected full loss.",
    "hypervolume": "How much of the plane of latency and expected full loss, one standard deviation added,"
                   " the front"
                   " covers after each network. The line is flat while nothing new enters the front.",
}


# -- header --------------------------------------------------------------------------------------------------

class HeaderSection(Section):
    """Name, the result in a sentence, and the settings."""

    def html(self, run: RecordedRun) -> str:
        return render("header.html", run=run, lead="" if run.answer else result_sentence(run),
                      answer=statements(run), commands=next_commands(run), bars=_bars(run),
                      facts=list(_facts(run)))


def _bars(run: RecordedRun) -> list[dict[str, Any]]:
    """The reasons of the answer: words, value and the place of the bar, in percent of the width."""
    reasons = {} if run.answer is None else reasons_of(run.answer)
    widest = max([abs(value) for value in reasons.values()] or [0.0]) or 1.0
    return [{"words": REASONS.get(name, name), "value": signed(value), "good": value < 0,
             "left": 50 + min(50 * value / widest, 0), "width": 50 * abs(value) / widest}
            for name, value in reasons.items()]


def result_sentence(run: RecordedRun) -> str:
    """The result, the best pure-operator baseline to compare with, and how many trainings failed."""
    if run.scored.empty:
        return f"No network was trained to the end ({counts_line(run)}).{_failed_words(run)}"
    found = len(run.front)
    start = (f"{found} architecture{'s' if found != 1 else ''} on the Pareto front" if found else
             "The search has ended without a front" if run.entry("finished") else
             "The search has not ended. What follows is of the networks so far")
    if run.ranks_full:
        return f"{start}; {counts_line(run)}.{_failed_words(run)}"
    scored = [f for f in run.front if known(f.figures.get("loss")) and known(f.figures.get("latency_ms"))]
    if not scored:
        return f"{start}; {counts_line(run)}.{_failed_words(run)}"
    factor, unit = latency_unit([f.figures["latency_ms"] or 0.0 for f in scored])
    best = min(scored, key=lambda f: f.figures["loss"] or 0.0)
    text = (f"{start}. The lowest loss is {best.figures['loss']:.3f} nats per token ({best.name},"
            f" {number((best.figures['latency_ms'] or 0) * factor, 4, unit)})")
    if not run.baselines.empty:
        pure = min(rows(run.baselines), key=lambda row: row.loss)
        text += (f"; the best pure-operator baseline is {pure.label} with {pure.loss:.3f} at"
                 f" {number(pure.latency_ms * factor, 4, unit)}")
    return f"{text}.{_failed_words(run)}"


def _failed_words(run: RecordedRun) -> str:
    """` 9 of 18 trainings failed, most often: REASON.`; empty if none failed."""
    failed = run.failed
    if failed.empty:
        return ""
    reason = str(failed["reason"].mode().iloc[0]).rstrip(".")
    count = len(failed) + len(run.trained)
    return f" {len(failed)} of {count} trainings failed, most often: {reason or MISSING}."


def _facts(run: RecordedRun) -> Iterable[tuple[str, Any, str]]:
    """(name, value, detail) of what was asked."""
    entry = run.entry
    mode = entry("table", "mode")
    workload = [words.format(value) for key, words in (
        ("batch", "batch of {}"), ("prompt_tokens", "{:,} tokens in"), ("generated_tokens",
                                                                        "{:,} tokens out"))
        if known(value := entry("workload", key)) and value > 0]
    if entry("workload", "dtype") not in (None, "auto"):
        workload.append(str(entry("workload", "dtype")))
    yield "Device", entry("table", "device") or entry("table", "name"), " · ".join(
        str(part) for part in (entry("table", "stack"), f"mode {mode}" if mode else "") if part)
    yield "Workload", entry("workload", "name") or entry("workload"), ", ".join(workload)
    limits = [f"{name} {BOUND.get(name, '≤')} {limit:,g}" for name, limit in _mapping(run, "budgets").items()
              if known(limit)]
    yield "Budget", ", ".join(limits) or "none", (
        f"with {run.confidence:.0%} confidence" if run.confidence else "")
    if run.further_objectives or run.ranks_full:
        planned = entry("foresight", "train_tokens")
        yield "Objectives", ", ".join(title_of(name) for name in run.objectives), (
            f"of a full training on {tokens_text(planned)} tokens" if known(planned) and planned >= 1 else "")
    yield "Space", entry("space", "name") or entry("space"), ""
    order = f" · trajectory {entry('trajectory')}" if entry("question", "asynchronous") else ""
    yield "Search", "published trainings" if run.untrained else entry("sampler"), (
        f"seed {entry('seed')}" if run.untrained else
        f"seed {entry('seed')} · {entry('trials_asked')} networks asked for{order}")
    yield "Trials", counts_line(run).split(" · ")[0], " · ".join(counts_line(run).split(" · ")[1:])
    width, depth, tokens = (entry("proxy", name) for name in ("width_factor", "depth_factor", "tokens"))
    if not run.untrained:
        yield "Short training", entry("proxy", "corpus"), " · ".join(filter(None, (
            f"width 1/{width}" if known(width) else "", f"depth 1/{depth}" if known(depth) and depth > 1
            else "",
            f"{tokens:,} tokens each" if known(tokens) else "")))
    if entry("bench", "name"):
        yield "Bench", entry("bench", "name"), (
            f"{_networks(int((run.trained['source'] == 'bench').sum()))} of this run with the loss from it"
            f" (digest {entry('bench', 'digest')})")
    if entry("start_from", "runs"):
        yield "Started from", ", ".join(map(str, entry("start_from", "runs"))), (
            f"{_networks(int((run.trained['source'] == 'run').sum()))} of this run with the loss from there"
            f" (digest {entry('start_from', 'digest')})")
    if entry("rungs"):
        yield "Rungs", f"{', '.join(f'{tokens:,}' for tokens in entry('rungs'))} tokens", (
            f"{(stopped := run.counts()['stopped'])} training{'s' * (stopped != 1)} stopped there, whose"
            f" chance to"
            f" enter the front was below {entry('question', 'rung_chance') or 0:.0%}")
    if (entry("seeds") or 1) > 1:
        yield "Seeds", f"{entry('seeds')} for each finalist", (
            "short losses of the front are means, ± their standard error; others are of one training")
    if tokens_words(run):
        yield "Effort", tokens_words(run).partition(";")[0], (
            tokens_words(run).partition("; ")[2])
    finished = entry("finished")
    yield "Run time", duration(entry("seconds")), f"finished {finished}" if finished else "not finished"


def _networks(count: int) -> str:
    return f"{count} network{'s' * (count != 1)}"


def _mapping(run: RecordedRun, key: str) -> Mapping[str, Any]:
    value = run.entry(key)
    return value if isinstance(value, Mapping) else {}


# -- finalists -----------------------------------------------------------------------------------------------

class FinalistsSection(Section):
    """The front, fastest first: figures in one row, the operators in the next; as a picture, pareto.png."""

    title = "Finalists"
    picture = "pareto.png"

    def html(self, run: RecordedRun) -> str:
        factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
        objectives = tuple(name for name in run.further_objectives
                           if name == "ttft_ms" or task_scores((name,)))
        losses = [("Loss", "nats/token", ""), ("", "bits/byte", "")] if not run.ranks_full else [
            ("Full loss", "nats, difference", ""), ("Best", "probability", ""),
            *([] if run.untrained else [("Short loss", "nats/token", "")]),
            ("Recall", "to a transformer", "")]
        columns = [("", "", "text"), *((title_of(name), "", "") for name in objectives), *losses,
                   ("Latency", f"{unit}, {_limit(run, factor)}lower to upper", ""), ("Per token", "ms", ""),
                   *([] if run.ranks_full else [("Throughput", "tokens/s", "")]), ("Parameters", "", ""),
                   ("Memory", "GB", ""), ("From", "", "text"),
                   *([] if run.ranks_full else [("File", "", "text")])]
        kinds = sorted({spec.kind for finalist in run.front for spec in finalist.architecture.operators},
                       key=operator_order)
        return render("finalists.html", columns=columns, run=run,
                      figure=_figure(run, "front") if run.ranks_full else None, measured=_measured_words(run),
                      finalists=[_shown(run, finalist, factor, objectives) for finalist in run.front],
                      looks={kind: _look(kind) for kind in kinds},
                      legend=[(kind, operator_label(kind).partition(" · ")[2] or kind) for kind in kinds])

    def png(self, run: RecordedRun) -> Figure:
        from flashnas.report.png import draw_png  # matplotlib loads when a picture is drawn

        return draw_png(run)


def _measured_words(run: RecordedRun) -> str:
    """What the text above the table says of measured finalists; empty if none was measured."""
    if not any(known(finalist.figures.get("measured_ms")) for finalist in run.front):
        return ""
    over = "".join(f" {line[0].upper()}{line[1:]}."
                   for line in misses(run)) or " Every one keeps its budgets."
    return f" Measured: the whole model, timed on the device.{over}{_corrected_words(run)}"


def _corrected_words(run: RecordedRun) -> str:
    """What a search that timed networks on its way did to the predictions."""
    versions = run.config.get("corrections") or []
    if not versions:
        return ""
    last = versions[-1]
    errors = (f"the table differs from {last['networks']} timed networks by {last['table_error']:.1%}"
              " on average")
    if not last["taken"]:
        return f" The latencies are the table's: {errors}."
    return (f" The latencies are corrected by what was timed during the search: {errors}, the correction,"
            f" each network"
            f" left out in turn, by {last['left_out_error']:.1%}.")


def _limit(run: RecordedRun, factor: float) -> str:
    """The budget for the heading, where networks are marked that may exceed it."""
    return f"budget {run.budget_ms * factor:,.4g}, " if run.ranks_full and run.budget_ms else ""


def _shown(run: RecordedRun, finalist: FrontEntry, factor: float,
           objectives: tuple[str, ...]) -> dict[str, Any]:
    """The texts of one finalist."""
    figures = finalist.figures

    def scaled(name: str) -> str:
        value = figures.get(name)
        return f"{value * factor:.2f}" if known(value) else MISSING

    below = []
    if not scaled("lower_ms") == scaled("upper_ms") == MISSING:
        below.append(f"{scaled('lower_ms')} to {scaled('upper_ms')}")
    below += [f"{words} {scaled(name)}" for words, name in (("certified", "bound_ms"), ("measured",
                                                                                        "measured_ms"))
              if scaled(name) != MISSING]
    latency = {"value": scaled("latency_ms"), "lines": below,
               "warning": f"misses {', '.join(finalist.missed)}" if finalist.missed else
              "may exceed it" if run.ranks_full and exceeds(run, finalist) else ""}
    losses = [loss_words(figures), fixed(figures.get("bits_per_byte"), 3)] if not run.ranks_full else [
        full_loss_words(run, finalist), fixed(figures.get("probability_best"), 2),
        *([] if run.untrained else [loss_words(figures)]), recall_words(figures)]
    more = [] if run.ranks_full else [number(figures.get("throughput_tok_s"), 4)]
    before, after = ([{"value": text, "lines": [], "warning": ""} for text in texts] for texts in (
        (*(fixed(figures.get(name), 3) for name in objectives), *losses),
        (fixed(figures.get("tpot_ms"), 3), *more, parameters(figures.get("params")),
         fixed(figures.get("memory_gb"), 2))))
    return {"name": finalist.name, "mark": MARKS[mark_of(run, finalist)], "cells": [*before, latency, *after],
            "origin": shortened(origin_words(finalist)), "file": finalist.path.name,
            "operators": [(spec.kind, str(spec)) for spec in finalist.architecture.operators],
            "notation": compressed(finalist.notation)}


def _look(kind: str) -> dict[str, str]:
    """Colour of a chip and of the text on it."""
    colour = operator_colour(kind)
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return {"colour": colour, "ink": INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#FFFFFF"}


# -- figures, sources, failures, reproduction ----------------------------------------------------------------

class FiguresSection(Section):
    """The Plotly figures with their captions."""

    title = "Figures"

    def html(self, run: RecordedRun) -> str:
        drawn = [*(["short-loss"] if run.ranks_full else ["front"]), *FIGURES]
        empty = {*(["front"] if run.ranks_full else []),  # it is above the table
                 *(["short-loss", "hypervolume", "curves"] if run.untrained else []),
                 *([] if run.front or run.scored.empty else ["latency-by-operator", "latency-by-kernel"])}
        drawn += ["objectives"] if run.further_objectives else []
        return render("figures.html", figures=[
            _figure(run, name) for name in dict.fromkeys(drawn) if name not in empty])


def _figure(run: RecordedRun, name: str) -> dict[str, Any]:
    """A figure with its caption, for the page."""
    caption = (FULL_CAPTIONS.get(name) if run.ranks_full else None) or CAPTIONS[name]
    return {"name": name, "json": _inert({**FIGURES, **FURTHER}[name](run).to_json()), "caption": caption}


def _inert(json_text: str) -> Markup:
    """JSON that no HTML parser takes for markup."""
    return Markup(json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


class SourcesSection(Section):
    """How much of each finalist's latency was measured, imported, derived or taken from a roofline."""

    title = "Where the latencies come from"

    def html(self, run: RecordedRun) -> str:
        shown = [finalist for finalist in run.front if finalist.sources]
        if not shown:
            return ""
        names = [*(name for name in SOURCE_MEANING if any(name in f.sources for f in shown)),
                 *sorted({name for f in shown for name in f.sources} - set(SOURCE_MEANING))]
        return render("sources.html", names=names, lines=[
            (finalist.name, [(SOURCE_COLOURS.get(name, "#98A2B3"), finalist.sources.get(name, 0.0))
                             for name in names])
            for finalist in shown],
            meanings="; ".join(f"{name}: {SOURCE_MEANING[name]}" for name in names if name in SOURCE_MEANING))


class FailuresSection(Section):
    """Failed trials by reason and one by one; infeasible ones by reason."""

    title = "What failed"

    def html(self, run: RecordedRun) -> str:
        failed, outside = run.failed, run.trials[run.trials["state"] == "infeasible"]
        return render("failures.html", reasons=list(failed["reason"].value_counts().items()),
                      failed=[(row.number, row.reason, compressed(row.notation))
                              for row in rows(failed.head(MAX_FAILURES))],
                      more=max(0, len(failed) - MAX_FAILURES),
                      outside=list(outside["reason"].value_counts().items()))


class ReproduceSection(Section):
    """The command, and everything in run.yaml that fixes the result."""

    title = "How to reproduce"

    def html(self, run: RecordedRun) -> str:
        return render("reproduce.html", command=run.entry("command"), entries=[
            (name, value) for name, value in _flat(run.config)
            if name != "command" and not name.startswith("question.")])


def _flat(data: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, MISSING if data is None or data == {} else str(data)


HEADER, FINALISTS, FIGURES_SECTION = HeaderSection(), FinalistsSection(), FiguresSection()
SOURCES, FAILURES, REPRODUCE = SourcesSection(), FailuresSection(), ReproduceSection()
