"""What another seed does to the pairs that a recipe orders: each trial of TRIALS under seed 0, and under seed 1.

    python experiments/proxy_recipe/seeds.py     # reads trials.csv; seconds

Over the rows that both have trained: the clear pairs that each seed orders rightly, and those that the mean of both
does. `seed SD` is that of one training in nats. `turned`: pairs that the two seeds order otherwise.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from levers import clear_pairs, right

from flashnas.evidence.agreement import consensus_pairs
from flashnas.evidence.trainings import read_published

TRIALS = (("cpu", "second_seed"), ("half_depth", "half_second"))


def main() -> None:
    for trials in TRIALS:
        compare(trials)


def compare(trials: tuple[str, str]) -> None:
    """Print a table of all pairs, of those on which groups agree, and of each group."""
    rows = read_published()
    places = {(row.group, row.operators): place for place, row in enumerate(rows)}
    losses = np.full((2, len(rows)), np.nan)
    with Path(__file__).with_name("trials.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if line["trial"] in trials and line["loss"]:
                losses[trials.index(line["trial"]), places[line["group"], line["operators"]]] = float(line["loss"])
    known = np.isfinite(losses).all(axis=0)
    groups = clear_pairs(rows, known)
    every = [pair for pairs in groups.values() for pair in pairs]
    agreed = consensus_pairs(rows, np.flatnonzero(known))
    named = {"all": every, "agreed": [pair for pair in every if pair.order in agreed], **groups}
    sd = float(np.sqrt(np.mean(np.diff(losses[:, known], axis=0) ** 2) / 2))
    turned = int((right(losses[0], every) != right(losses[1], every)).sum())
    print(f"{' and '.join(trials)}: {known.sum()} of {len(rows)} rows, seed SD {sd:.4f}, turned {turned}")
    for name, pairs in named.items():
        counts = [right(values, pairs).sum() for values in (*losses, losses.mean(axis=0))]
        first, second, mean = (f"{count:g}" for count in counts)
        print(f"  {name:<22} of {len(pairs):>3}: seed 0 {first:>3}  seed 1 {second:>3}  mean {mean:>3}")


if __name__ == "__main__":
    main()
