"""A part of a long history that is enough for a model whose cost grows with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flashnas.search.pareto import non_dominated


def kept(points: npt.ArrayLike, limit: int) -> npt.NDArray[np.int_]:
    """Indices of at most `limit` of the points [N, M], oldest first, in their order; all if N is at most `limit`.

    A third is the front (where it is larger: spread along its first objective), a third the most recent ones, and the
    rest is spread evenly over the order of the first objective, best and worst included, so that a model keeps the
    scale of what is bad. Deterministic; all objectives are minimised.
    """
    values = np.asarray(points, dtype=np.float64)
    count = len(values)
    if count <= limit:
        return np.arange(count)
    front = np.flatnonzero(non_dominated(values))
    front = _spread(front[np.argsort(values[front, 0], kind="stable")], limit // 3)
    chosen = np.zeros(count, dtype=bool)
    chosen[front] = True
    chosen[count - limit // 3:] = True
    rest = np.flatnonzero(~chosen)
    chosen[_spread(rest[np.argsort(values[rest, 0], kind="stable")], limit - int(chosen.sum()))] = True
    return np.flatnonzero(chosen)


def _spread(ordered: npt.NDArray[np.int_], count: int) -> npt.NDArray[np.int_]:
    """`count` entries at equal distances, the first and the last included; all of them if they are at most `count`."""
    if len(ordered) <= count:
        return ordered
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))] if count else ordered[:0]
