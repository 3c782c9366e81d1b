"""Does what a publication finds of a mix at one size hold at another?

    python experiments/evidence/sizes.py     # sizes.csv; seconds of one core

Two groups of one publication, of two sizes, have pairs of mixes in common. The change of the
difference of such a pair from group to group is held against the distance of the groups: the root
of the squared logarithms of the ratios of size and of tokens. Differences are less the law of size
and shape. Then the model is given effects that fade: what a publication has of its own at a mix
correlates over the distance d as exp(-d / length). The log likelihood of all rows says whether
publications ask for this; the model that ships has no such length.

Expected: sizes.csv. Changes are as large between near sizes as between far ones, and the
likelihood falls with every length below about 16.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from fitting import ffn_rows

from flashnas.loss.composition import Law, Rows
from flashnas.loss.load import fitted, loss_model, rows_of
from flashnas.loss.model import FullLoss, Spreads
from flashnas.observations.losses import full_width
from flashnas.observations.read_losses import (
    composition,
    groups_without_repeats,
    pairs_of_nested_groups,
    read_published,
)

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
DISTANCES = (0, 1, 2, 4, 6)


def changes() -> pd.DataFrame:
    """One row for each pair of mixes that two groups of a publication share: the distance of the
    groups, and by how much the difference of the two mixes changes, in nats per token."""
    trainings, model = read_published(), loss_model()
    slope = model.coefficients()["law"][0]
    found: dict[str, list[tuple[np.ndarray, dict]]] = defaultdict(list)
    for members in groups_without_repeats(trainings).values():
        rows = [trainings[index] for index in members]
        levels = defaultdict(list)
        for row, law in zip(rows, rows_of(rows, model.law).x[:, 0], strict=True):
            levels[composition(row.specs)].append(row.nats - slope * law)
        size = np.log([np.median([row.params for row in rows]), rows[0].tokens])
        means = {mix: np.mean(values) for mix, values in levels.items()}
        found[rows[0].source].append((size, means))
    lines = []
    for source, groups in found.items():
        for (size, one), (other_size, other) in itertools.combinations(groups, 2):
            for first, second in itertools.combinations(sorted(one.keys() & other.keys()), 2):
                change = (one[first] - one[second]) - (other[first] - other[second])
                distance = np.linalg.norm(size - other_size)
                lines.append({"source": source, "distance": distance, "change": abs(change)})
    return pd.DataFrame(lines)


class Fading(FullLoss):
    """The model in which what a publication has of its own at a mix fades. kept [N, N]: its
    correlation between the rows."""

    def __init__(self, rows: Rows, kept: np.ndarray) -> None:
        self.kept = kept
        super().__init__(rows, Spreads(**fitted()["spreads"]), Law(**fitted()["law"]))

    def _own_prior(self, one, other):
        kinds = self.spreads.kind**2 * one.shares @ other.shares.T
        mixes = kinds + self.spreads.own_residual**2 * self._kernel(one, other)
        same = np.equal.outer(one.publication, other.publication)
        return super()._own_prior(one, other) - same * mixes * (1 - self.kept)


def log_likelihoods() -> dict[float, float]:
    """By length: the log likelihood of all rows less that without fading."""
    law, trainings = Law(**fitted()["law"]), read_published()
    smaller = {small for small, _ in pairs_of_nested_groups(trainings)}
    trainings = [row for row in trainings if row.group not in smaller]
    shares = ffn_rows(law)
    rows = Rows.joined(rows_of(trainings, law), shares)
    # the rows of the shares of feed-forward layers are all of one size
    sizes = np.log(
        [(row.params - full_width(row) * row.vocab, row.tokens) for row in trainings]
        + [(1e9, 1e11)] * len(shares)
    )
    distance = np.linalg.norm(sizes[:, None] - sizes, axis=-1)
    without = -Fading(rows, np.ones_like(distance)).cost
    return {length: -Fading(rows, np.exp(-distance / length)).cost - without for length in LENGTHS}


if __name__ == "__main__":
    table = changes()
    table["distance"] = pd.cut(table.distance, DISTANCES, right=False)
    by_distance = table.groupby("distance", observed=True).change
    figures = pd.DataFrame(
        {
            "pairs": by_distance.size(),
            "publications": table.groupby("distance", observed=True).source.nunique(),
            "median_nats": by_distance.median(),
        }
    ).reset_index()
    lengths = pd.Series(log_likelihoods(), name="log_likelihood").rename_axis("length")
    figures = pd.concat([figures, lengths.reset_index()])
    figures.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(figures.round(3).to_string(index=False))
