"""Which paused candidates train on: those that can still enter the front. Pure functions.

All objectives but the loss are exactly known before a training. A candidate therefore enters the front if its
final loss is below that of every network that is nowhere more costly. The chance of that follows from the
forecast of the final losses (search/forecast.py). Who has at least a given chance trains on, and the best of
each cycle in any case, so that the forecast goes on learning from finished trainings. A fixed share of each
cycle, as in successive halving, would drop good candidates of a good cycle and finish poor ones of a poor
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashnas.search.forecast import Curve, Forecast, forecast
from flashnas.search.pareto import standings


@dataclass(frozen=True)
class Pause:
    """What is decided of paused candidates [N], in their order: who trains on, the probability of entering
    the front, and the expected final losses in nats per token with their standard deviations."""

    promoted: npt.NDArray[np.bool_]
    chances: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    sds: npt.NDArray[np.float64]


def decide(paused: Sequence[Curve], costs: npt.ArrayLike, *, finished: npt.ArrayLike, curves: Sequence[Curve],
           tokens: int, chance: float, at_least_one: bool = True) -> Pause:
    """Decide who of the paused candidates of a cycle trains on.

    Args:
        paused: curve of each to the pause, [tokens, loss in nats per token]; at least one.
        costs: [N, J], their other objectives, minimised; exactly known.
        finished: [F, 1 + J], final loss and costs of the networks that are finished.
        curves: of finished trainings of the same recipe, from which the forecast learns.
        chance: least probability of entering the front with which a candidate trains on.
        at_least_one: the best one trains on even if nobody has that chance.
    """
    expected = forecast(paused, curves, tokens)
    costs_NJ = np.asarray(costs, dtype=np.float64).reshape(len(paused), -1)
    finished_FM = np.asarray(finished, dtype=np.float64).reshape(-1, 1 + costs_NJ.shape[1])
    chances = front_chances(expected, costs_NJ, finished_FM)
    promoted = chances >= chance
    if at_least_one and not promoted.any():
        promoted[most_likely(chances, np.column_stack([expected.mean, costs_NJ]))] = True
    return Pause(promoted, chances, expected.mean, expected.sd)


def most_likely(chances: np.ndarray, points: npt.ArrayLike) -> int:
    """The place of the highest chance; of equal ones that of the best point."""
    return int(np.lexsort((standings(points), -chances))[0])


def front_chances(expected: Forecast, costs_NJ: np.ndarray, finished_FM: np.ndarray) -> np.ndarray:
    """Probability [N] that each candidate's final loss is below that of every network that is nowhere more
    costly.

    Over the finished networks it is exact. The other candidates of the cycle are taken one at a time, and the
    smallest of these probabilities is the result: an upper bound, which drops nobody whom the joint
    probability would keep.
    """
    cheaper_NF = (finished_FM[None, :, 1:] <= costs_NJ[:, None, :]).all(axis=2)
    level = np.where(cheaper_NF, finished_FM[None, :, 0], np.inf).min(axis=1, initial=np.inf)
    alone = expected.below(level)
    cheaper_NN = (costs_NJ[None, :, :] <= costs_NJ[:, None, :]).all(axis=2)
    others_NN = ~np.eye(len(costs_NJ), dtype=bool)
    among = np.where(cheaper_NN & others_NN, expected.below_each_other(), 1.0).min(axis=1)
    return np.asarray(np.minimum(alone, among))
