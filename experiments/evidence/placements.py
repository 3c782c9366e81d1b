"""What published trainings say of the order of operators in a stack.

    python experiments/evidence/placements.py     # placements.csv; seconds of one core

Rows of one group that hold the same operators in another order, each less the mean of these
rows, as published and as the model predicts it without the publication.

Expected: placements.csv, the table of docs/loss.md: seven rows of two publications.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from left_out import left_out_pairs

from flashnas.architecture.architecture import fold
from flashnas.observations.losses import groups_without_repeats
from flashnas.observations.read_losses import read_published


def study() -> pd.DataFrame:
    rows = read_published()
    predicted = defaultdict(dict)
    for pair in left_out_pairs(rows):
        predicted[pair.one][pair.other] = pair.predicted
        predicted[pair.other][pair.one] = -pair.predicted
    lines = []
    for group, members in groups_without_repeats(rows).items():
        orders = defaultdict(list)
        for index in members:
            orders[frozenset(Counter(rows[index].specs).items())].append(index)
        for alike in orders.values():
            middle = np.mean([rows[index].nats for index in alike])
            lines += [
                {
                    "group": group,
                    "operators": fold(tuple(map(str, rows[index].specs))),
                    "published": rows[index].nats - middle,
                    "predicted": sum(predicted[index].get(other, 0.0) for other in alike)
                    / len(alike),
                }
                for index in alike
                if len(alike) > 1
            ]
    return pd.DataFrame(lines)


if __name__ == "__main__":
    found = study()
    found.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(found.round(3).to_string(index=False))
    print(found.groupby("group").published.std().round(4).to_string())
