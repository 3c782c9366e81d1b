"""The section of report.html about the front, and the still picture of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashnas.base.text import known
from flashnas.report.beside import shown_networks
from flashnas.report.figures import FIGURES
from flashnas.report.page_figures import page_figure
from flashnas.report.palette import operator_colour, operator_label, operator_order
from flashnas.report.section import Section, render
from flashnas.report.terminal import LESSER, finalists_table, table_legend
from flashnas.report.words import MARKS, mark_of, misses
from flashnas.runs.run import RecordedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FinalistsSection(Section):
    """The table of the terminal, the operators of each network below its figures; as a picture,
    pareto.png.
    """

    title = "Finalists"
    picture = "pareto.png"

    def html(self, run: RecordedRun) -> str:
        shown, table = shown_networks(run), finalists_table(run)
        titles, *lines = (cells[1:-1] for cells in zip(*table.values(), strict=True))
        networks = [entry.architecture for entry in shown if entry.architecture is not None]
        kinds = {spec.kind for network in networks for spec in network.operators}
        colours = {kind: operator_colour(kind) for kind in sorted(kinds, key=operator_order)}
        measured = ""
        if any(known(finalist.figures.get("measured_ms")) for finalist in run.front):
            over = "".join(misses(run)) or "every one keeps its budgets"
            measured = (
                f" Measured: the whole model, timed on the device. {over[0].upper()}{over[1:]}."
            )
        return render(
            "finalists.html",
            run=run,
            titles=titles,
            css=[
                f"{'text ' * (title == 'from')}{'lesser' * (title in LESSER)}" for title in titles
            ],
            finalists=list(zip(shown, lines, strict=True)),
            marks=[MARKS[mark_of(run, entry)] for entry in shown],
            figure=page_figure(run, "front", FIGURES["front"](run)) if run.ranks_full else None,
            measured=measured,
            table_legend=table_legend(run, table),
            colours=colours,
            legend=[(kind, operator_label(kind).rpartition(" · ")[2]) for kind in colours],
        )

    def png(self, run: RecordedRun) -> Figure:
        from flashnas.report.draw_matplotlib import (
            draw_matplotlib,  # matplotlib loads when it draws
        )

        return draw_matplotlib(FIGURES["front"](run))


FINALISTS = FinalistsSection()
