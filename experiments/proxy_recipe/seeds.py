"""What another seed does to the pairs that a recipe orders: each trial of TRIALS under seed 0, and under seed 1.

    python experiments/proxy_recipe/seeds.py     # reads trials.csv; seconds

Over the rows that both have trained: the clear pairs that each seed orders rightly, and those that the mean of both
does, by the loss and by the loss extrapolated to four times the tokens. `seed SD` is that of one training in nats.
`turned`: pairs that the two seeds order otherwise.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from levers import readings_of

from flashnas.evidence.trainings import groups_of, pairs_of, read_published
from flashnas.evidence.agreement import agreement, consensus_pairs

TRIALS = (("cpu", "second_seed"), ("half_depth", "half_second"))
READINGS = ("loss", "4 x tokens")


def main() -> None:
    for trials in TRIALS:
        compare(trials)


def compare(trials: tuple[str, str]) -> None:
    """Print a table of all pairs, of those on which groups agree, and of each group."""
    rows = read_published()
    places = {(row.group, row.operators): place for place, row in enumerate(rows)}
    losses = {reading: np.full((2, len(rows)), np.nan) for reading in READINGS}
    with Path(__file__).with_name("trials.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if line["trial"] in trials and line["loss"]:
                found = readings_of(line)
                for reading in READINGS:
                    place = trials.index(line["trial"]), places[line["group"], line["operators"]]
                    losses[reading][place] = found[reading]
    known = np.isfinite(losses["loss"]).all(axis=0)
    groups = {name: pairs for name, members in groups_of(rows).items()
              if (pairs := pairs_of(rows, [place for place in members if known[place]]))}
    every = [pair for pairs in groups.values() for pair in pairs]
    agreed = consensus_pairs(rows, np.flatnonzero(known))
    named = {"all": every, "agreed": [pair for pair in every if (pair.better, pair.worse) in agreed], **groups}
    print(f"{' and '.join(trials)}: {known.sum()} of {len(rows)} rows")
    for reading, both in losses.items():
        sd = float(np.sqrt(np.mean(np.diff(both[:, known], axis=0) ** 2) / 2))
        turned = int((agreement(both[0], every) != agreement(both[1], every)).sum())
        print(f"{reading}: seed SD {sd:.4f}, turned {turned}")
        for name, pairs in named.items():
            counts = [agreement(values, pairs).sum() for values in (*both, both.mean(axis=0))]
            first, second, mean = (f"{count:g}" for count in counts)
            print(f"  {name:<22} of {len(pairs):>3}: seed 0 {first:>3}  seed 1 {second:>3}  mean {mean:>3}")


if __name__ == "__main__":
    main()
