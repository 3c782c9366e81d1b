"""The numbers behind the figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.folding import kinds, mixers_by_use
from flashnas.base.text import known
from flashnas.report.palette import operator_order
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import point
from flashnas.search.pareto import non_dominated
from flashnas.search.trial import Trial

DEPTH_BINS = 12
OUTSIDE = 10_000  # cost of a label that the frame would cut; more than all that it can cover


# -- the front -------------------------------------------------------------------------------------


def front(run: RecordedRun) -> pd.DataFrame:
    """The networks that are non-dominated in the run's objectives, fastest first. Where the full
    loss ranks, those of the folder, with networks that keep a floor for recall."""
    if run.ranks_full:
        return run.scored[on_front(run, run.scored)].sort_values(
            ["latency_ms", run.quality], kind="stable"
        )
    trained, points = objective_points(run)
    mask = non_dominated(points) if len(points) else np.zeros(0, dtype=bool)
    return trained[mask].sort_values(["latency_ms", "loss"], kind="stable")


def objective_points(run: RecordedRun) -> tuple[pd.DataFrame, np.ndarray]:
    """The networks that have all objectives of the run, and these, latency_ms first, all minimised
    [N, M]. The full loss is compared as the search does: with the charge for silence."""
    names = sorted(run.objectives, key=lambda name: name != "latency_ms")
    trained = run.scored.reindex(columns=list(dict.fromkeys([*run.scored.columns, *names])))
    trained = trained[trained[names].notna().all(axis=1)]
    points = [point(names, row._asdict()) for row in rows(trained)]
    return trained, np.array(points, dtype=float).reshape(len(points), len(names))


def staircase(points: pd.DataFrame, right: float) -> tuple[list[float], list[float]]:
    """Corners (latency_ms, loss) of the region that the front dominates, drawn to the latency
    `right`.
    """
    x, y = points[["latency_ms", "loss"]].to_numpy(dtype=float).T
    lowest = y <= np.minimum.accumulate(y)  # others are on the front for another objective
    x, y = x[lowest], y[lowest]
    end = [max(right, last) for last in x[-1:].tolist()]
    return [*np.repeat(x, 2)[1:].tolist(), *end], np.repeat(y, 2).tolist()


def finalist_of(run: RecordedRun, row: Any) -> Trial | None:
    return run.finalists.get(row.hash)


def on_front(run: RecordedRun, trials: pd.DataFrame) -> np.ndarray:
    return np.array([finalist_of(run, row) is not None for row in rows(trials)], dtype=bool)


def name_of(run: RecordedRun, row: Any) -> str:
    """`P2` for a finalist's trial, the label of a baseline (`P2 · pure d` for both), else `trial
    17`.
    """
    finalist = finalist_of(run, row)
    names = [finalist.name] if finalist else []
    if row.origin == "baseline":
        names.append(row.label)
    return " · ".join(names) or f"trial {row.number}"


def mixer_colours(notation: str) -> tuple[str, str]:
    """(most frequent token mixer, second most frequent one or the same again); `?` for an
    unreadable notation."""
    mixers = mixers_by_use(notation) or ("?",)
    return mixers[0], mixers[min(1, len(mixers) - 1)]


# -- operators along the depth ---------------------------------------------------------------------


def depth_shares(notations: Iterable[str], bins: int = DEPTH_BINS) -> pd.DataFrame:
    """Mean share of each operator kind (columns) in equal slices of the relative depth (rows); each
    row sums to 1.

    All networks have the same weight; unreadable notations are left out.
    """
    readable = [shares for shares in map(kinds, notations) if shares]
    if not readable:
        return pd.DataFrame()
    columns = sorted({kind for shares in readable for kind in shares}, key=operator_order)
    total = np.zeros((bins, len(columns)))
    edges = np.linspace(0.0, 1.0, bins + 1)
    for shares in readable:
        at = np.arange(len(shares)) / len(shares)
        low = np.maximum(edges[:-1, None], at[None, :])
        high = np.minimum(edges[1:, None], at[None, :] + 1 / len(shares))
        total += np.clip(high - low, 0.0, None) * bins @ (np.array(shares)[:, None] == columns)
    centres = (edges[:-1] + edges[1:]) / 2
    return pd.DataFrame(total / len(readable), index=centres, columns=columns)


# -- latency by operator ---------------------------------------------------------------------------


def latency_parts(run: RecordedRun) -> pd.DataFrame:
    """Milliseconds of each finalist by operator and source, in a fixed order of operators.

    Columns: finalist, operator, source, ms, share, and start, the milliseconds of what is before
    it.
    """
    parts = [
        (finalist.name, operator, source, ms)
        for finalist in run.front
        for operator in sorted(finalist.operators_ms, key=operator_order)
        for source, ms in finalist.operators_ms[operator].items()
        if known(ms) and ms > 0
    ]
    frame = pd.DataFrame(parts, columns=["finalist", "operator", "source", "ms"]).astype(
        {"ms": float}
    )
    by_finalist = frame.groupby("finalist")["ms"]
    return frame.assign(
        share=frame["ms"] / by_finalist.transform("sum"), start=by_finalist.cumsum() - frame["ms"]
    )


# -- layout ----------------------------------------------------------------------------------------


def place_labels(
    anchors: np.ndarray,
    sizes: Sequence[tuple[float, float]],
    obstacles: np.ndarray,
    box: tuple[float, float],
) -> list[tuple[float, float]]:
    """Offsets (right, up) from labelled points to the centres of their labels, clear of obstacles,
    of each other and of the edges; greedily, each the best of 60. Points [N, 2] are in pixels from
    the lower left corner of the box."""
    distances = np.repeat((10.0, 24.0, 42.0, 64.0, 88.0), 12)
    angles = np.tile(np.deg2rad([0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200]), 5)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    chosen: list[tuple[float, float]] = []
    for anchor, size in zip(anchors, np.array(sizes, dtype=float), strict=True):
        half = size / 2
        offsets = directions * (half + distances[:, None])  # [60, 2]
        lengths, centres = np.hypot(*offsets.T), anchor + offsets
        others = obstacles - anchor
        others = others[
            (np.abs(others) < size + 14 + distances[-1]).all(axis=1) & (np.hypot(*others.T) > 7)
        ]
        covered = (np.abs(others - offsets[:, None]) < half + 3).all(axis=2).sum(axis=1)
        # within 7 pixels of the line from the anchor to the label
        along, across = (
            others @ line.T / lengths for line in (offsets, offsets[:, ::-1] * (-1, 1))
        )
        crossed = ((along > 0) & (along < lengths) & (np.abs(across) < 7)).sum(axis=0)
        closest = np.hypot(*(anchors - centres[:, None]).T).min(axis=0)
        cost = distances / 8 + 30.0 * covered + 15.0 * crossed
        cost += 60 * (closest < lengths - 0.5)  # it would look like the name of another point
        for centre, reach in taken:
            cost += 150 * (np.abs(centres - centre) < half + reach).all(axis=1)
        cost += OUTSIDE * ((centres < half) | (centres + half > box)).any(axis=1)
        best = int(cost.argmin())
        taken.append((centres[best], half))
        chosen.append(tuple(offsets[best].tolist()))
    return chosen


def latency_unit(values: Iterable[float]) -> tuple[float, str]:
    """(factor, unit) that shows milliseconds readably: seconds from 2000 ms on."""
    largest = max((v for v in values if v == v), default=0.0)
    return (1e-3, "s") if largest >= 2000 else (1.0, "ms")


def front_unit(run: RecordedRun) -> tuple[float, str]:
    """That of the latencies of the front."""
    return latency_unit(entry.latency_ms or 0.0 for entry in run.front)
