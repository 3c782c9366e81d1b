"""The objectives of a search by name, the one definition of their directions, and which networks no
other one beats in all of them.

All code that compares minimises. Recall and throughput are maximised, and are therefore compared by
their negative. Fronts are found here and not by moocore, whose fronts are wrong for infinite values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from flashnas.base.text import one_of
from flashnas.latency.metrics import LARGER_IS_BETTER, METRICS

DEFAULT = ("loss", "latency_ms")
FULL = "full_loss"  # the loss to expect of a full training; takes the place of `loss`
RECALL = "expected_recall"  # after a full training; known without any
# of which a search has one, known after training only; the others come exactly from the table or
# evidence
QUALITY = ("loss", FULL)
OBJECTIVES = (*QUALITY, RECALL, *METRICS)
MAX_OBJECTIVES = 4  # with more, nearly every network is on the front
_MAXIMISED = (RECALL, *LARGER_IS_BETTER)


def check_objectives(names: Sequence[str], refuse: Callable[[str], NoReturn]) -> tuple[str, ...]:
    """The names, the quality first. refuse: raises an error for a rule, such as `must be 2 to 4
    names; got loss`."""
    for name in names:
        if name not in OBJECTIVES:
            refuse(one_of("", name, OBJECTIVES).strip())
        if list(names).count(name) > 1:
            refuse(f"names {name!r} twice")
    if not 2 <= len(names) <= MAX_OBJECTIVES:
        refuse(
            f"must be 2 to {MAX_OBJECTIVES} names, such as loss,latency_ms; got"
            f" {','.join(names) or 'none'}"
        )
    if not any(name in QUALITY for name in names):
        refuse(f"needs a trained quality ({', '.join(QUALITY)}); got {','.join(names)}")
    return tuple(sorted(names, key=lambda name: name not in QUALITY))


def title_of(name: str) -> str:
    """`expected recall`, `memory (GB)`: an objective in a heading."""
    if name in METRICS:
        words = (
            name.removesuffix("_ms").removesuffix("_gb").removesuffix("_tok_s").replace("_", " ")
        )
        return words if name == "params" else f"{words} ({METRICS[name]})"
    return name.replace("_", " ")


def larger_is_better(name: str) -> bool:
    return name in _MAXIMISED


def minimised(name: str, value: float) -> float:
    return -value if larger_is_better(name) else value


def figure_of(name: str, figures: Mapping[str, Any]) -> float | None:
    """An objective's plain value from what is recorded of a network; None where it does not
    exist.
    """
    value = figures.get(name)
    return None if value is None or value != value else float(value)


def point(names: Sequence[str], figures: Mapping[str, Any]) -> tuple[float, ...] | None:
    """All objectives as they are compared; None if one does not exist. The full loss is compared by
    the value that the scorer ranks by."""
    values = []
    for name in names:
        if (value := figure_of("value" if name == FULL else name, figures)) is None:
            return None
        values.append(minimised(name, value))
    return tuple(values)


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


def _checked(points: Points) -> npt.NDArray[np.float64]:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"points must have the shape [N, M]; got {list(values.shape)}")
    if np.isnan(values).any():
        raise ValueError("points must not be NaN")
    return values
