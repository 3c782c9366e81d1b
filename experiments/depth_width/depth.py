"""Is the deeper of two networks of equal size ahead after a short training, and do sizes keep their order?

    python experiments/depth_width/depth.py [TRAININGS]    # seconds, trains nothing

Publications find the deeper one better at equal parameters (arXiv 2402.14905 figure 4; arXiv 2511.18890 section 2.1).
One line for each token count of the trainings of `flashnas scaling-law`; the order is held against the most tokens.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.training.store import read_table
from flashnas.trust.analysis import interval, spearman
from flashnas.trust.scaling_grid import GridTraining

EQUAL = 1.2    # depth times width squared of two sizes, at most this far apart
APART_NATS = 0.02


def main() -> None:
    """Print one line for each token count."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("trainings.jsonl")
    table = read_table(path, GridTraining)
    losses = table[table["loss"].notna()].groupby(["tokens", "depth", "width"])["loss"].mean()
    most = max(losses.index.get_level_values("tokens"))
    print(f"{path}: {len(losses[most])} sizes")
    for tokens, loss in losses.groupby("tokens"):
        loss, deeper = loss[tokens], deeper_is_better(loss[tokens])
        line = f"{tokens:>9,} tokens: the deeper one is ahead in {sum(deeper)} of {len(deeper)} pairs of equal size"
        if tokens < most:
            truth = losses[most][loss.index]
            found = interval([loss.to_numpy(), truth.to_numpy()], spearman)
            line += (f"; with {most:,} tokens: Spearman {found.value:.3f} [{found.low:.2f}, {found.high:.2f}],"
                     f" {clear_pairs(loss, truth)} pairs alike")
        print(line)


def deeper_is_better(loss: pd.Series) -> list[bool]:
    """For each pair of sizes with about equal depth x width^2 and other depths: whether the deeper one is ahead."""
    sizes = list(loss.index)
    return [loss[deep] < loss[flat] for flat in sizes for deep in sizes if deep[0] > flat[0]
            and 1 / EQUAL < deep[0] * deep[1] ** 2 / (flat[0] * flat[1] ** 2) < EQUAL]


def clear_pairs(loss: pd.Series, truth: pd.Series) -> str:
    """Of the pairs that the longest training tells apart, those ordered alike."""
    x, y = (np.subtract.outer(values.to_numpy(), values.to_numpy())[np.triu_indices(len(values), 1)]
            for values in (loss, truth))
    clear = np.abs(y) > APART_NATS
    return f"{int((np.sign(x) == np.sign(y))[clear].sum())} of {int(clear.sum())}"


if __name__ == "__main__":
    main()
