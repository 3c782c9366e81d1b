"""What the page says of a search whose trainings rank the networks by the loss that they reach."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashnas.base.text import MISSING, counted, is_number, number, printable
from flashnas.reporting.words import counts_line, latency_unit
from flashnas.run_folder.recorded_run import RecordedRun, rows


def staircase(points: pd.DataFrame, right: float) -> tuple[list[float], list[float]]:
    """Corners (latency_ms, loss) of the region that the front dominates, drawn to the latency
    `right`.
    """
    x, y = points[["latency_ms", "loss"]].to_numpy(dtype=float).T
    lowest = y <= np.minimum.accumulate(y)  # others are on the front for another objective
    x, y = x[lowest], y[lowest]
    end = [max(right, last) for last in x[-1:].tolist()]
    return [*np.repeat(x, 2)[1:].tolist(), *end], np.repeat(y, 2).tolist()


def best_baseline(run: RecordedRun) -> str:
    """The best baseline of a front by its loss; empty without one."""
    if run.baselines.empty or run.ranks_full:
        return ""
    best, (factor, unit) = min(rows(run.baselines), key=lambda row: row.loss), latency_unit(run)
    time = f"{best.latency_ms * factor:.2f} {unit}"
    return f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at {time}"


def result_sentence(run: RecordedRun) -> str:
    """The result, the best pure-operator baseline to compare with, and how many trainings
    failed.
    """
    failed, ended = run.failed, ""
    if not failed.empty:
        reason = str(failed["reason"].mode().iloc[0]).rstrip(".") or MISSING
        count = f"{len(failed)} of {len(failed) + len(run.trained)} trainings failed"
        ended = f" {count}, most often: {reason}."
    if run.scored.empty:
        return f"No network was trained to the end ({counts_line(run)}).{ended}"
    if run.front:
        start = f"{counted(len(run.front), 'architecture')} on the Pareto front"
    elif run.entry("finished"):
        start = "The search has ended without a front"
    else:
        start = "The search has not ended. What follows is of the networks so far"
    scored = [entry for entry in run.front if is_number(entry.loss) and is_number(entry.latency_ms)]
    if run.ranks_full or not scored:
        return f"{start}; {counts_line(run)}.{ended}"
    factor, unit = latency_unit(run)
    best = min(scored, key=lambda entry: entry.loss or 0.0)
    time = number((best.latency_ms or 0.0) * factor, 4, unit)
    text = f"{start}. The lowest loss is {best.loss:.3f} nats per token ({best.name}, {time})"
    if baseline := best_baseline(run):
        text += f"; {baseline}"
    return f"{text}.{ended}"
