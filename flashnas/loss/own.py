"""The user's own trainings as one publication more, for which the model then predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashnas.base.errors import ConfigError
from flashnas.base.text import printable
from flashnas.loss.composition import Rows
from flashnas.loss.model import RELIABILITY_SD, FullLoss
from flashnas.observations.losses import ObservedLoss
from flashnas.observations.read_losses import read_published

OWN = "own trainings"  # the publication that a user's file is, whatever its column source says
MAX_OWN_ROWS = 300
NEAR = 1.0  # of `Table.far`: a factor of e in size and tokens together
RELIABILITIES = np.linspace(-3.0, 4.0, 15)  # of its logarithm, in prior standard deviations


def own_rows(path: str | Path) -> list[ObservedLoss]:
    """A user's trainings as one publication, OWN, with groups of its own; ConfigError for a wrong
    file.
    """
    return as_own(read_published(path), printable(path))


def as_own(rows: Sequence[ObservedLoss], place: str = "own trainings") -> list[ObservedLoss]:
    """Trainings as those of one publication, OWN, with groups of its own; ConfigError for too many."""
    if len(rows) > MAX_OWN_ROWS:
        raise ConfigError(
            f"{place}: must hold at most {MAX_OWN_ROWS} trainings, because the time of"
            f" the model grows with the cube of their number; got {len(rows):,}"
        )
    return [
        dataclasses.replace(row, source=OWN, level=f"{OWN}: {row.level or row.group}")
        for row in rows
    ]


def with_own(shipped: FullLoss, own: Rows, reliability: float | None = None) -> FullLoss:
    """The model with the rows of one publication more, OWN, for which it then predicts.

    Args:
        reliability: of the own rows. None: the posterior of its logarithm counts, whose mean and
            standard deviation are sums over RELIABILITIES; trainings farther than NEAR from the sizes
            of publications tell nothing of it.
    """
    spreads = shipped.spreads

    def model(own: Rows, log: float, unseen: float) -> FullLoss:
        reliability = {**spreads.reliability, OWN: float(np.exp(log))}
        return FullLoss(
            Rows.joined(shipped.rows, own),
            dataclasses.replace(spreads, reliability=reliability, unseen=unseen),
            shipped.law,
            publication=OWN,
            slope=shipped.slope,
        )

    if reliability is not None:
        return model(own, float(np.log(reliability)), spreads.unseen)
    near = own.take(np.flatnonzero(np.abs(own.far).sum(axis=1) <= NEAR))
    logs = RELIABILITY_SD * RELIABILITIES
    costs = np.array([model(near, log, 0.0).cost for log in logs]) + 0.5 * RELIABILITIES**2
    weights = np.exp(costs.min() - costs)
    weights /= weights.sum()
    mean = float(weights @ logs)
    return model(own, mean, float(np.sqrt(weights @ (logs - mean) ** 2)))
