"""Which trials no other one beats in all objectives: the one definition of a front.

Fronts are found here and not by moocore, whose fronts are wrong for infinite values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flashnas.trials.objectives import minimised, ranking
from flashnas.trials.trial import Trial

SHOWN = 12  # networks of a front that a table has
Points = npt.ArrayLike  # [number of points, number of objectives]


def pareto(trials: Mapping[str, npt.ArrayLike], objectives: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mask of the trials that no other one dominates in these objectives, bool [N]; those that lack
    one are on no front. trials: columns [N] by name, those of `Trial`; the full loss is compared by
    the `value` that ranks."""
    columns = [
        minimised(name, np.asarray(trials[ranking(name)], dtype=np.float64)) for name in objectives
    ]
    points = np.column_stack(columns)
    mask = ~np.isnan(points).any(axis=1)
    mask[mask] = non_dominated(points[mask])
    return mask


def non_dominated(points: Points) -> npt.NDArray[np.bool_]:
    """Mask of the points that no other point dominates, bool [N]: none is nowhere worse and
    somewhere better. Of equal points all are kept. Raises ValueError for NaN or a wrong shape."""
    values = _checked(points)
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    # in lexicographic order a point is on the front if it has the lowest second value so far
    if unique.shape[1] == 2:
        mask = np.ones(len(unique), dtype=bool)
        mask[1:] = unique[1:, 1] < np.minimum.accumulate(unique[:, 1])[:-1]
        return mask[inverse.reshape(-1)]
    front = np.empty_like(unique)
    size = 0
    mask = np.zeros(len(unique), dtype=bool)
    for i, point in enumerate(unique):  # in lexicographic order: only an earlier point can dominate
        if not (front[:size] <= point).all(axis=1).any():
            front[size] = point
            size += 1
            mask[i] = True
    return mask[inverse.reshape(-1)]


def crowded_ranks(points: Points) -> npt.NDArray[np.int_]:
    """Place of each point, 0 the best, int [N]: by front (the first is non-dominated, the next once
    that is taken away, ..), within a front by room to its neighbours, which favours its ends
    (NSGA-II, Deb et al. 2002)."""
    values = _checked(points)
    front = np.zeros(len(values), dtype=int)
    room = np.zeros(len(values))
    left, number = np.arange(len(values)), 0
    while len(left):
        best = non_dominated(values[left])
        members = left[best]
        front[members], room[members] = number, _room(values[members])
        left, number = left[~best], number + 1
    ranks = np.empty(len(values), dtype=int)
    ranks[np.lexsort((-room, front))] = np.arange(len(values))
    return ranks


def thinned(
    front: Sequence[Trial],
    objectives: Sequence[str],
    count: int = SHOWN,
    keep: Collection[str] = (),
) -> list[Trial]:
    """At most `count` networks that stand for a front, in its order: the best one in each objective,
    those whose hash is in `keep`, and, one after the other, the one farthest from all of these. Of
    equal ones the first."""
    if len(front) <= count:
        return list(front)
    figures = [[getattr(trial, ranking(name)) for name in objectives] for trial in front]
    values = np.nan_to_num(np.array(figures, dtype=float))
    values *= [minimised(name, 1.0) for name in objectives]
    span = np.ptp(values, axis=0)
    values = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    order = [
        np.lexsort((*np.delete(values, end, 1).T, values[:, end])) for end in range(len(objectives))
    ]
    kept = [place for place, trial in enumerate(front) if trial.hash in keep]
    chosen = list(dict.fromkeys([*(int(places[0]) for places in order), *kept]))
    room = np.min([np.linalg.norm(values - values[place], axis=1) for place in chosen], axis=0)
    while len(chosen) < count and room.max() > 0:
        chosen.append(int(room.argmax()))
        room = np.minimum(room, np.linalg.norm(values - values[chosen[-1]], axis=1))
    return [front[place] for place in sorted(chosen)]


def _room(front: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Crowding distance [N]: the sum over objectives of the gap between both neighbours; infinite
    at the ends."""
    total = np.zeros(len(front))
    for column in front.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        total[order[[0, -1]]] = np.inf
        if len(front) > 2 and span > 0:
            total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return total


def _checked(points: Points) -> npt.NDArray[np.float64]:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"points must have the shape [N, M]; got {list(values.shape)}")
    if np.isnan(values).any():
        raise ValueError("points must not be NaN")
    return values
