"""Dominance, hypervolume, and what a model keeps of a history. Pure functions; every objective is
minimised.

Fronts are found here and not by moocore, whose fronts are wrong for infinite values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Points = npt.ArrayLike  # [number of points, number of objectives]


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


def standings(points: Points) -> npt.NDArray[np.int_]:
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


def hypervolume(points: Points, reference: npt.ArrayLike) -> float:
    """Volume that the points [N, M] dominate below a reference [M], by moocore; exact, up to
    rounding. Points that are not below it in every objective add nothing. Raises ValueError for
    NaN, minus infinity, an infinite reference or shapes that do not match."""
    values = _checked(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (values.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(f"reference must be {values.shape[1]} finite numbers; got {reference!r}")
    inside = values[(values < corner).all(axis=1)]
    if np.isneginf(inside).any():
        raise ValueError("points must not be minus infinity")
    if not len(inside):
        return 0.0
    import moocore  # 40 ms, which only a report with a hypervolume pays

    return float(moocore.hypervolume(inside, ref=corner))


def subsample_history(points: Points, limit: int) -> npt.NDArray[np.int_]:
    """Indices of at most `limit` of the points [N, M], oldest first, that are enough for a model
    whose cost grows with its history.

    A third is the front (where it is larger: spread along its first objective), a third the most
    recent ones, and the rest is spread evenly over the order of the first objective, best and worst
    included, so that a model keeps the scale of what is bad.
    """
    values = np.asarray(points, dtype=np.float64)
    count = len(values)
    if count <= limit:
        return np.arange(count)
    front = np.flatnonzero(non_dominated(values))
    front = _spread(front[np.argsort(values[front, 0], kind="stable")], limit // 3)
    chosen = np.zeros(count, dtype=bool)
    chosen[front] = True
    chosen[count - limit // 3 :] = True
    rest = np.flatnonzero(~chosen)
    chosen[_spread(rest[np.argsort(values[rest, 0], kind="stable")], limit - int(chosen.sum()))] = (
        True
    )
    return np.flatnonzero(chosen)


def _spread(ordered: npt.NDArray[np.int_], count: int) -> npt.NDArray[np.int_]:
    """`count` entries at equal distances, the first and the last included; all if there are
    fewer.
    """
    if len(ordered) <= count:
        return ordered
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))]


def _checked(points: Points) -> npt.NDArray[np.float64]:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"points must have the shape [N, M]; got {list(values.shape)}")
    if np.isnan(values).any():
        raise ValueError("points must not be NaN")
    return values
