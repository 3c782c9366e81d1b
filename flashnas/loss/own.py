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
FURTHEST = 4.0  # standard deviations from there


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
        reliability: of the own rows. None: as their gaps ask for, and never better than that of the
            middle publication, because a few rows of one seed may agree by chance.
    """
    rows = Rows.joined(shipped.rows, own)
    spreads = shipped.spreads

    def model(reliability: float) -> FullLoss:
        return FullLoss(
            rows,
            dataclasses.replace(spreads, reliability={**spreads.reliability, OWN: reliability}),
            shipped.law,
            publication=OWN,
            slope=shipped.slope,
        )

    def cost(log: float) -> float:
        return model(float(np.exp(log))).cost + 0.5 * (log / RELIABILITY_SD) ** 2

    if reliability is None:
        from scipy.optimize import minimize_scalar  # 0.4 s, which a search without own rows saves

        bounds = (0.0, FURTHEST * RELIABILITY_SD)
        found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 0.01})
        reliability = float(np.exp(found.x))
    return model(reliability)
