"""The numbers behind the figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.folding import kinds, mixers_by_use
from flashnas.latency.schema import KINDS
from flashnas.operators.kernel_kinds import kind_of_rows
from flashnas.report.palette import KERNEL_COLOURS, operator_order
from flashnas.report.text import known
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import FULL, larger_is_better
from flashnas.search.pareto import hypervolume, non_dominated

DEPTH_BINS = 12
REFERENCE_MARGIN = 1.01
OUTSIDE = 10_000  # cost of a label that the frame would cut; more than all that it can cover


# -- the front -----------------------------------------------------------------------------------------------

def front(run: RecordedRun) -> pd.DataFrame:
    """The networks that are non-dominated in the run's objectives, fastest first. Where the full loss ranks,
    those of the folder, with networks that keep a floor for recall."""
    if run.ranks_full:
        shown = run.scored
        on = np.array([finalist_of(run, row) is not None for row in rows(shown)], dtype=bool)
        return shown[on].sort_values(["latency_ms", run.quality], kind="stable")
    trained, points = objective_points(run)
    mask = non_dominated(points) if len(points) else np.zeros(0, dtype=bool)
    return trained[mask].sort_values(["latency_ms", "loss"], kind="stable")


def objective_points(run: RecordedRun, objectives: Sequence[str] = ()) -> tuple[pd.DataFrame, np.ndarray]:
    """The networks that have all objectives, by default those of the run, and these, latency_ms first, all
    minimised [N, M]. The full loss is compared as the search does: its mean with one standard deviation."""
    names = sorted(objectives or run.objectives, key=lambda name: name != "latency_ms")
    trained = run.scored.reindex(columns=list(dict.fromkeys([*run.scored.columns, *names])))
    trained = trained[trained[names].notna().all(axis=1)]
    signs = np.array([-1.0 if larger_is_better(name) else 1.0 for name in names])
    values = trained[names].to_numpy(dtype=float)
    if FULL in names:
        values[:, names.index(FULL)] += trained[f"{FULL}_sd"].fillna(0.0)
    return trained, values * signs


def staircase(points: pd.DataFrame, right: float) -> tuple[list[float], list[float]]:
    """Corners (latency_ms, loss) of the region that the front dominates, drawn to the latency `right`."""
    x, y = points[["latency_ms", "loss"]].to_numpy(dtype=float).T
    lowest = y <= np.minimum.accumulate(y)   # others are on the front for another objective
    x, y = x[lowest], y[lowest]
    end = [max(right, last) for last in x[-1:].tolist()]
    return [*np.repeat(x, 2)[1:].tolist(), *end], np.repeat(y, 2).tolist()


def finalist_of(run: RecordedRun, row: Any) -> FrontEntry | None:
    """The finalist that is this trial's network, if any."""
    by_number, by_hash = run.finalists
    places = [place for place in (by_number.get(row.number), by_hash.get(row.hash) if row.hash else None)
             if place is not None]
    return run.front[min(places)] if places else None


def name_of(run: RecordedRun, row: Any) -> str:
    """`P2` for a finalist's trial, the label of a baseline (`P2 · pure d` for both), else `trial 17`."""
    finalist = finalist_of(run, row)
    label = row.label if row.origin == "baseline" else ""
    return " · ".join(filter(None, (finalist.name if finalist else "", label))) or f"trial {row.number}"


def mixer_colours(notation: str) -> tuple[str, str]:
    """(most frequent token mixer, second most frequent one or the same again); `?` for an unreadable
    notation."""
    mixers = mixers_by_use(notation) or ("?",)
    return mixers[0], mixers[min(1, len(mixers) - 1)]


# -- hypervolume ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class HypervolumeSeries:
    """Hypervolume (ms · nats) of the first `networks[i]` trained networks, and of the baselines alone (None:
    none), up to the corner `reference`: of latency_ms the budget, of others the worst value moved by 1 %."""

    networks: list[int]
    trials: list[int]
    hypervolume: list[float]
    baselines: float | None
    reference: tuple[float, ...]


def reference_point(points: np.ndarray, budget_ms: float | None) -> np.ndarray:
    """The corner up to which the volume of points [N, M] is measured: see HypervolumeSeries."""
    worst = points.max(axis=0)
    reference: np.ndarray = worst + (REFERENCE_MARGIN - 1) * np.abs(worst)
    if budget_ms:
        reference[0] = budget_ms
    return reference


def hypervolume_series(run: RecordedRun) -> HypervolumeSeries:
    """The hypervolume after each trained network, in the order of the search."""
    trained, points = objective_points(run)
    if not len(points):
        return HypervolumeSeries([], [], [], None, (float("nan"), float("nan")))
    reference = reference_point(points, run.budget_ms if "latency_ms" in run.objectives else None)
    kept: np.ndarray = np.empty((0, points.shape[1]))
    values: list[float] = []
    for point in points:  # only the front so far matters: each step stays small
        if (kept <= point).all(axis=1).any():  # nothing new enters the front
            values.append(values[-1])
            continue
        kept = np.vstack([kept[~(point <= kept).all(axis=1)], point])
        values.append(float(hypervolume(kept, reference)))
    pure = points[(trained["origin"] == "baseline").to_numpy()]
    alone = float(hypervolume(pure[non_dominated(pure)], reference)) if len(pure) else None
    return HypervolumeSeries(list(range(1, len(points) + 1)), [int(n) for n in trained["number"]], values,
                             alone, tuple(float(value) for value in reference))


# -- operators along the depth -------------------------------------------------------------------------------

def depth_shares(notations: Iterable[str], bins: int = DEPTH_BINS) -> pd.DataFrame:
    """Mean share of each operator kind (columns) in equal slices of the relative depth (rows); each row sums
    to 1.

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
        overlap = np.clip(high - low, 0.0, None) * bins
        for column, kind in enumerate(columns):
            total[:, column] += overlap[:, [k == kind for k in shares]].sum(axis=1)
    centres = (edges[:-1] + edges[1:]) / 2
    return pd.DataFrame(total / len(readable), index=centres, columns=columns)


# -- latency breakdown ---------------------------------------------------------------------------------------

def breakdown(run: RecordedRun) -> pd.DataFrame:
    """Milliseconds of each finalist by operator, kernel and source, in a fixed order of operators.

    Columns: finalist, operator, kernel, label, family, source, ms, share. Finalists without a breakdown are
        missing.
    """
    parts = []
    for finalist in run.front:
        for entry in finalist.breakdown:
            ms = entry.get("ms")
            if not known(ms) or ms <= 0:
                continue
            kernel = str(entry.get("kernel") or "other")
            parts.append({"finalist": finalist.name, "operator": str(entry.get("operator") or "other"),
                          "kernel": kernel, "label": str(entry.get("label") or kernel),
                          "family": kernel_family(kernel), "source": str(entry.get("source") or "unknown"),
                          "ms": ms})
    columns = ["finalist", "operator", "kernel", "label", "family", "source", "ms"]
    if not parts:
        return pd.DataFrame(columns=[*columns, "share"])
    grouped = pd.DataFrame(parts).groupby(columns[:-1], sort=False, as_index=False).agg({"ms": "sum"})
    grouped["share"] = grouped["ms"] / grouped.groupby("finalist")["ms"].transform("sum")
    numbers = {finalist.name: finalist.number for finalist in run.front}
    order = sorted(range(len(grouped)), key=lambda i: (numbers[grouped["finalist"].iloc[i]],
                                                       operator_order(grouped["operator"].iloc[i])))
    return grouped.iloc[order].reset_index(drop=True)


def kernel_family(kernel: str) -> str:
    """The family in pictures of a kernel, of `calibration`, or of rows of whole operators."""
    kinds = kind_of_rows(kernel)
    if kinds:
        return kinds[0].family.name
    *_, calibration, operators, other = KERNEL_COLOURS
    return calibration if kernel == "calibration" else operators if kernel in KINDS else other


# -- layout --------------------------------------------------------------------------------------------------

def place_labels(anchors: list[tuple[float, float]], sizes: list[tuple[float, float]],
                 obstacles: list[tuple[float, float]], box: tuple[float, float]) -> list[tuple[float, float]]:
    """Place labels clear of points, of each other and of the edges; greedily, each at the best of 60 places.

    Args:
        anchors: the labelled points, in pixels from the lower left corner of the box.
        obstacles: points to keep clear of.

    Returns:
        Offsets (right, up) from each anchor to the centre of its label.
    """
    distances = (10.0, 24.0, 42.0, 64.0, 88.0)
    points, owners = (np.array(some, dtype=float).reshape(-1, 2) for some in (obstacles, anchors))
    angles = np.deg2rad([0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200])
    taken: list[tuple[float, float, float, float]] = []
    offsets = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        best: tuple[float, float, float] | None = None
        others = points - (x, y)
        in_reach = (np.abs(others) < (width + 14 + distances[-1], height + 14 + distances[-1])).all(axis=1)
        others = others[in_reach & (np.hypot(*others.T) > 7)]
        for distance in distances:
            for angle in angles:
                dx = float(np.cos(angle)) * (width / 2 + distance)
                dy = float(np.sin(angle)) * (height / 2 + distance)
                left, low, right, high = (x + dx - width / 2, y + dy - height / 2,
                                          x + dx + width / 2, y + dy + height / 2)
                covered = (np.abs(others - (dx, dy)) < (width / 2 + 3, height / 2 + 3)).all(axis=1).sum()
                cost = distance / 8 + 30.0 * covered + 15.0 * _crossed(others, dx, dy)
                nearest = np.hypot(*(owners - (x + dx, y + dy)).T).min(initial=np.inf)
                # it would look like the name of another point
                cost += 60 * (nearest < np.hypot(dx, dy) - 0.5)
                cost += 150 * sum(left < x1 and right > x0 and low < y1 and high > y0 for x0, y0, x1,
                                  y1 in taken)
                cost += OUTSIDE * (left < 0 or low < 0 or right > box[0] or high > box[1])
                if best is None or cost < best[0]:
                    best = (cost, dx, dy)
        assert best is not None
        offsets.append(best[1:])
        taken.append((x + best[1] - width / 2, y + best[2] - height / 2,
                      x + best[1] + width / 2, y + best[2] + height / 2))
    return offsets


def _crossed(others: np.ndarray, dx: float, dy: float) -> int:
    """Points [N, 2], relative to the anchor, within 7 pixels of the line from there to the label at (dx,
    dy)."""
    length = float(np.hypot(dx, dy))
    along = others @ np.array([dx, dy]) / length
    across = np.abs(others @ np.array([-dy, dx])) / length
    return int(((along > 0) & (along < length) & (across < 7)).sum())


def latency_unit(values: Iterable[float]) -> tuple[float, str]:
    """(factor, unit) that shows milliseconds readably: seconds from 2000 ms on."""
    largest = max((v for v in values if v == v), default=0.0)
    return (1e-3, "s") if largest >= 2000 else (1.0, "ms")

