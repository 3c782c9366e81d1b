"""What parts of the model add to the prediction of publications that it has not seen.

    python experiments/evidence/parts.py      # parts.csv; three minutes of one core

Each publication is left out in turn, and the spreads are fitted anew without it and without a part.
The gain of the part is the mean log score of differences with all parts less that without it,
publications equal, with its standard error over publications: of all groups, and of the large rows
of ladders.py where the small ones are known.

Expected, written before the first run: an unknown reliability of the publication gains most, because
two publications have differences that nobody else finds. The slopes of gated delta rules over size
and tokens gain on ladders alone, and so does a spread of each kind of mixer between publications.
The slopes came out below their standard error.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pandas as pd
from fitting import fit_spreads
from ladders import LADDERS, predicted

from flashnas.loss.composition import Law
from flashnas.loss.load import fitted, shipped_rows
from flashnas.loss.model import FullLoss, Spreads
from flashnas.loss.publications import predicted_pairs
from flashnas.observations.read_losses import groups_without_repeats, read_published

RELIABILITY = "unknown reliability"
# part -> names of the spreads without which the model lacks it
PARTS = {"": (), RELIABILITY: (), "slopes of gated delta rules": ("slope",), "kinds": ("kind",)}


@functools.cache
def model_of(part: str, source: str) -> FullLoss:
    """The model without a part, which has not seen a publication."""
    rows, law = shipped_rows(), Law(**fitted()["law"])
    rows = rows.take(np.flatnonzero(rows.publication != source))
    spreads = fit_spreads(rows, law, without=PARTS[part])
    shipped = Spreads(**fitted()["folds"].get(source, fitted()["spreads"]))
    spreads = dataclasses.replace(spreads, fidelity=shipped.fidelity)
    if part == RELIABILITY:  # that of the middle publication, and known
        spreads = dataclasses.replace(spreads, unseen=0.0)
    return FullLoss(rows, spreads, law)


def log_scores(part: str) -> pd.DataFrame:
    """Mean log score of the model without a part, by publication: of all groups, and of ladders."""
    rows = read_published()
    sources = [rows[index[0]].source for index in groups_without_repeats(rows).values()]
    found = {}
    for source in dict.fromkeys(sources):
        own = [row for row in rows if row.source == source]
        pairs = predicted_pairs(own, lambda name: model_of(part, name))
        ladders = [
            np.mean([pair.log_score for pair in predicted(ladder, rows, model, known=True)])
            for ladder in LADDERS
            if ladder.source == source and (model := model_of(part, source))
        ]
        found[source] = {
            "groups": np.mean([pair.log_score for pair in pairs]),
            "ladders": np.mean(ladders) if ladders else np.nan,
        }
    return pd.DataFrame(found).T


if __name__ == "__main__":
    whole, lines = log_scores(""), []
    for part in filter(None, PARTS):
        gain = whole - log_scores(part)
        lines.append(
            {"part": part}
            | {f"gain, {name}": gain[name].mean() for name in gain}
            | {f"standard error, {name}": gain[name].sem() for name in gain}
        )
    table = pd.DataFrame(lines).round(3)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))
