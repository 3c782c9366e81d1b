"""How many clear pairs of published rows each trial of trials.csv orders as published.

    python experiments/proxy_recipe/levers.py [TRIAL ..]     # seconds

Without names, one line for each trial. A trial that trained fewer rows has fewer pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.evidence.trainings import read_published

sys.path.append(str(Path(__file__).parents[1] / "evidence"))

from left_out import pairs_of


def main() -> None:
    """Print one line for each trial."""
    rows = read_published()
    trials = pd.read_csv(Path(__file__).with_name("trials.csv"), low_memory=False)
    for name, trial in trials.groupby("trial", sort=False):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        by_row = trial.groupby(["group", "operators"])["loss"].mean()
        losses = np.array([by_row.get((row.group, row.operators), np.nan) for row in rows])
        clear = [pair for pair in pairs_of(rows, losses) if pair.clear]
        if clear:
            right = sum(pair.right for pair in clear)
            print(
                f"{name:16} {right:5g} of {len(clear):3} clear pairs ({right / len(clear):.0%}),"
                f" {len(by_row)} rows"
            )


if __name__ == "__main__":
    main()
