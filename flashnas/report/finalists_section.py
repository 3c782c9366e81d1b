"""The section of report.html about the front, and the still picture of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flashnas.architecture.folding import compressed
from flashnas.report.beside import Shown, shown_networks
from flashnas.report.figures import FIGURES
from flashnas.report.page_figures import page_figure
from flashnas.report.palette import operator_colour, operator_label, operator_order
from flashnas.report.plot_data import front_unit
from flashnas.report.section import Section, render
from flashnas.report.text import MISSING, known, number, parameters
from flashnas.report.words import (
    MARKS,
    exceeds,
    fixed,
    loss_cells,
    loss_columns,
    mark_of,
    misses,
    origin_words,
    time_words,
)
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LESSER = "lesser"  # class of columns that a narrow page leaves out
MAIN = ("loss", "full loss", "recall")


class FinalistsSection(Section):
    """The front, fastest first: figures in one row, the operators in the next; as a picture,
    pareto.png.
    """

    title = "Finalists"
    picture = "pareto.png"

    def html(self, run: RecordedRun) -> str:
        factor, unit = front_unit(run)
        limit = f"budget {run.budget_ms * factor:,.4g}, " if run.budget_ms else ""
        shown = shown_networks(run)
        objectives = [name for name in run.further_objectives if name == "ttft_ms"]
        losses = loss_columns(run, shown)
        columns = [
            ("", "", "text"),
            *((title_of(name), "", "") for name in objectives),
            *((_capital(name), detail, LESSER * (name not in MAIN)) for name, detail in losses),
            ("Latency", f"{unit}, {limit}lower to upper", ""),
            ("Per token", "ms", LESSER),
            *([] if run.ranks_full else [("Throughput", "tokens/s", LESSER)]),
            ("Parameters", "", LESSER),
            ("Memory", "GB", LESSER),
            ("From", "", f"text {LESSER}"),
            *([] if run.ranks_full else [("File", "", f"text {LESSER}")]),
        ]
        networks = [entry.architecture for entry in shown if entry.architecture is not None]
        kinds = {spec.kind for network in networks for spec in network.operators}
        colours = {kind: operator_colour(kind) for kind in sorted(kinds, key=operator_order)}
        return render(
            "finalists.html",
            columns=columns,
            run=run,
            figure=page_figure(run, "front", FIGURES["front"](run)) if run.ranks_full else None,
            measured=_measured_words(run),
            finalists=[
                _shown(run, entry, factor, [name for name, _ in losses], objectives)
                for entry in shown
            ],
            first_beside=len(run.front),
            colours=colours,
            legend=[(kind, operator_label(kind).rpartition(" · ")[2]) for kind in colours],
        )

    def png(self, run: RecordedRun) -> Figure:
        from flashnas.report.draw_matplotlib import (
            draw_matplotlib,
        )  # matplotlib loads when it draws

        return draw_matplotlib(FIGURES["front"](run))


def _measured_words(run: RecordedRun) -> str:
    """What the text above the table says of measured finalists; empty if none was measured."""
    if not any(known(finalist.figures.get("measured_ms")) for finalist in run.front):
        return ""
    over = misses(run) or ["every one keeps its budgets"]
    return f" Measured: the whole model, timed on the device; {over[0]}."


def _shown(
    run: RecordedRun,
    finalist: Shown,
    factor: float,
    losses: Sequence[str],
    objectives: Sequence[str],
) -> dict[str, Any]:
    figures = finalist.figures
    latency, lower, upper, bound, measured = (
        time_words(finalist, name, factor)
        for name in ("latency_ms", "lower_ms", "upper_ms", "bound_ms", "measured_ms")
    )
    times = [(lower, f"{lower} to {upper}")]
    times += [(bound, f"certified {bound}"), (measured, f"measured {measured}")]
    below = [words for time, words in times if time != MISSING]
    warning = (
        f"misses {', '.join(finalist.missed)}"
        if finalist.missed
        else "may exceed it"
        if run.ranks_full and exceeds(run, finalist)
        else ""
    )
    texts = [
        *(fixed(figures.get(name), 3) for name in objectives),
        *loss_cells(run, finalist, losses),
        "",  # of the latency
        fixed(figures.get("tpot_ms"), 3),
        *([] if run.ranks_full else [number(figures.get("throughput_tok_s"), 4)]),
        parameters(figures.get("params")),
        fixed(figures.get("memory_gb"), 2),
    ]
    cells: list[Any] = [(text, [], "") for text in texts]
    cells[len(objectives) + len(losses)] = (latency, below, warning)
    return {
        "name": finalist.name,
        "mark": MARKS[mark_of(run, finalist)],
        "cells": cells,
        "origin": origin_words(finalist),
        "file": finalist.path.name,
        "operators": finalist.architecture.operators if finalist.architecture else (),
        "notation": compressed(finalist.notation),
    }


def _capital(text: str) -> str:
    return text if "/" in text else f"{text[0].upper()}{text[1:]}"


FINALISTS = FinalistsSection()
