"""The curves of the trainings of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from flashnas.base.text import is_number, tokens_text
from flashnas.reporting.drawing import FAINT, SERIES, NothingToShow, Plot, key
from flashnas.reporting.words import named
from flashnas.run_folder.recorded_run import RecordedRun, rows

CURVE_HEIGHT = 368.0  # pixels of plotting areas
MAX_CURVES = 500  # grey ones, those of the lowest loss
LATE = 0.7  # of the tokens: from here on, curves are magnified


def curves_figure(run: RecordedRun, narrow: bool = False) -> Plot:
    """Validation loss over tokens seen, whole and, magnified, its last part."""
    trials = named(run, run.trained)
    trials = trials[trials["curve"].map(len) > 0]
    if trials.empty:
        raise NothingToShow("No training curve was recorded.")
    solid, final = "finalists", trials["finalist"] != ""
    if (answer := run.answer) is not None:
        solid = "recommended and tied"
        final &= trials["hash"].isin((answer.recommended, *answer.tied))
    trials = trials.assign(final=final, end=trials["curve"].map(lambda curve: curve[-1][1]))
    marked = final | (trials["origin"] == "baseline")
    best = trials[marked].sort_values("end", ascending=False, kind="stable")
    others = trials[~marked].sort_values("loss", kind="stable")[:MAX_CURVES]
    lines = [
        (row, colour, "-" if row.final else "--")
        for row, colour in zip(rows(best), itertools.cycle(SERIES), strict=False)
    ]
    last = max(curve[-1][0] for curve in trials["curve"])
    plot = Plot(
        "Training curves",
        f"solid: {solid}; dashed: pure-operator baselines; grey: other networks",
        [CURVE_HEIGHT] * 2,
        columns=2,
        keys=[key(row.name, colour, linestyle=style) for row, colour, style in lines],
        keys_title="By the final loss, highest first",
        narrow=narrow,
    )
    for panel, start, heading in zip(
        plot.panels,
        (0.0, LATE * last),
        ("the whole training", f"the last {1 - LATE:.0%} of the tokens"),
        strict=True,
    ):
        for row in rows(others):
            panel.plot(*zip(*row.curve, strict=True), color=FAINT, linewidth=1)
        for row, colour, style in lines:
            (line,) = panel.plot(
                *zip(*row.curve, strict=True),
                color=colour,
                linestyle=style,
                linewidth=2.0 if row.final else 1.5,
            )
            plot.hover(line, [f"{row.name}\n{row.end:.4f} nats at the end"])
        panel.set(xlim=(start, last), ylim=_loss_range(trials["curve"], start))
        panel.xaxis.set_major_formatter(lambda tokens, _: tokens_text(tokens))
        panel.locator_params(axis="x", nbins=5)
        first = panel is plot.panels[0] or narrow
        plot.label(
            panel, "tokens seen", "validation loss (nats per token)" if first else "", heading
        )
    return plot


def _loss_range(curves: Iterable[Sequence[Any]], start: float) -> tuple[float, float]:
    """What holds the curves from `start` tokens on."""
    values = [y for curve in curves for x, y in curve if x >= start and is_number(y)] or [0.0, 1.0]
    low, high = min(values), max(values)
    return low - 0.06 * ((high - low) or 1), high + 0.04 * ((high - low) or 1)
