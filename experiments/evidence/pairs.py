"""Pairs of published rows, as a model predicts them that has not seen their publication."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flashnas.loss.composition import Table
from flashnas.loss.load import rows_of
from flashnas.loss.model import FullLoss
from flashnas.loss.prediction import Prediction, reliabilities
from flashnas.observations.losses import ObservedLoss, groups_without_repeats

CLEAR_NATS = 0.02  # a pair with a larger published gap is clear


@dataclass(frozen=True)
class Pair:
    """Two rows of a group, by their indices: the published loss of the first less that of the
    second, the predicted one, its standard deviation with that of the trainings, in nats, and the
    logarithm of the density of the published one (None: not stated). A tie counts half."""

    one: int
    other: int
    published: float
    predicted: float
    sd: float | None = None
    log_score: float | None = None

    @property
    def clear(self) -> bool:
        return abs(self.published) > CLEAR_NATS

    @property
    def right(self) -> float:
        """1 for the published order, 0.5 for a tie, 0 for the other order."""
        return 0.5 + 0.5 * float(np.sign(self.published) * np.sign(self.predicted))


def predicted_pairs(
    rows: Sequence[ObservedLoss], model_of: Callable[[str], FullLoss]
) -> list[Pair]:
    """All pairs within groups, as those of a publication that nobody has seen.

    Args:
        model_of: source of a group -> the model that predicts it.
    """
    pairs = []
    for members in groups_without_repeats(rows).values():
        model = model_of(rows[members[0]].source)
        prediction = model.predict(as_new_publication(model, [rows[index] for index in members]))
        for one, other in itertools.combinations(range(len(members)), 2):
            mean = float(prediction.mean[one] - prediction.mean[other])
            published = rows[members[one]].nats - rows[members[other]].nats
            sd = float(prediction.sd_to(other, trainings=2)[one])
            score = log_density(prediction, published, one, other, trainings=2)
            pairs.append(Pair(members[one], members[other], published, mean, sd, score))
    return pairs


def as_new_publication(model: FullLoss, rows: Sequence[ObservedLoss]) -> Table:
    """Rows of the publication that a model predicts for, as it sees them."""
    return dataclasses.replace(
        rows_of(rows, model.law), publication=np.full(len(rows), model.publication, object)
    )


def log_density(
    prediction: Prediction, difference: float, one: int, other: int, trainings: int = 0
) -> float:
    """Of a difference of two networks in nats, as of `Prediction.difference`."""
    shared, own = (part[one] for part in prediction.variances_to(other, trainings))
    values, weights = reliabilities(prediction.unseen)
    variances = shared + own * values**2
    error = difference - (prediction.mean[one] - prediction.mean[other])
    densities = np.exp(-0.5 * error**2 / variances) / np.sqrt(2 * np.pi * variances)
    return float(np.log(weights @ densities))
