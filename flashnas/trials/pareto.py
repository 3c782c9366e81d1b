"""The objectives of a search by name, and which trials no other one beats in all of them: the one
definition of a front.

All code that compares minimises. Recall and throughput are maximised, and are therefore compared by
their negative. Fronts are found here and not by moocore, whose fronts are wrong for infinite values.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from flashnas.base.text import one_of
from flashnas.latency.metrics import LARGER_IS_BETTER, METRICS
from flashnas.trials.trial import Trial

DEFAULT = ("loss", "latency_ms")
FULL = "full_loss"  # the loss to expect of a full training; takes the place of `loss`
RECALL = "expected_recall"  # after a full training; known without any
# of which a search has one, known after training only; the others come exactly from the table or
# evidence
QUALITY = ("loss", FULL)
OBJECTIVES = (*QUALITY, RECALL, *METRICS)
MAX_OBJECTIVES = 4  # with more, nearly every network is on the front
SHOWN = 12  # networks of a front that a table has
Points = npt.ArrayLike  # [number of points, number of objectives]


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
    if sum(name in QUALITY for name in names) != 1:
        refuse(f"needs one quality ({' or '.join(QUALITY)}); got {','.join(names)}")
    return tuple(sorted(names, key=lambda name: name not in QUALITY))


def title_of(name: str) -> str:
    """`expected recall`, `memory (GB)`: an objective in a heading."""
    if name in METRICS:
        words = re.sub("_(ms|gb|tok_s)$", "", name).replace("_", " ")
        return words if name.endswith("params") else f"{words} ({METRICS[name]})"
    return name.replace("_", " ")


def larger_is_better(name: str) -> bool:
    return name in (RECALL, *LARGER_IS_BETTER)


def minimised(name: str, value: Any) -> Any:
    """A number, or an array, as it is compared."""
    return -value if larger_is_better(name) else value


def ranking(name: str) -> str:
    """The field of a trial by which an objective is compared."""
    return "value" if name == FULL else name


def point(names: Sequence[str], figures: Mapping[str, Any]) -> tuple[float, ...] | None:
    """All objectives as they are compared; None if one does not exist."""
    values = []
    for name in names:
        value = figures.get(ranking(name))
        if value is None or value != value:
            return None
        values.append(minimised(name, float(value)))
    return tuple(values)


# -- fronts ----------------------------------------------------------------------------------------


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
    somewhere better. Of equal points all are kept. None is NaN."""
    unique, inverse = np.unique(np.asarray(points, float), axis=0, return_inverse=True)
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
    values = np.asarray(points, float)
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
