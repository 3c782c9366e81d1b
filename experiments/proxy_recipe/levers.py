"""What each lever did: for every trial, the share of clear published pairs that each reading orders rightly.

    python experiments/proxy_recipe/levers.py [TRIAL ..]     # reads trials.csv; a few seconds

Rows that a trial did not train do not count; compare trials over the same rows (column `rows`).
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from flashnas.trust.published import groups_of, pairs_of, read_published
from flashnas.trust.published_agreement import agreement

READINGS = ("loss", "late", "recall", "no_recall", "frequent", "rare", "copied")


def main() -> None:
    """Print one line for each trial, reading and point of its curve."""
    path = Path(sys.argv.pop(1)) if len(sys.argv) > 1 and sys.argv[1].endswith(".csv") else Path(
        __file__).with_name("trials.csv")
    rows = read_published()
    places = {(row.group, row.operators): place for place, row in enumerate(rows)}
    with path.open(newline="") as file:
        trials: dict[str, list[dict[str, str]]] = defaultdict(list)
        for line in csv.DictReader(file):
            trials[line["trial"]].append(line)
    for name, lines in trials.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        known = sorted({places[line["group"], line["operators"]] for line in lines if line["loss"]})
        curves = [json.loads(line["curve"]) for line in lines if line["loss"]]
        points = [f"curve {tokens // 1024}k" for tokens, _ in curves[0][:-1]] if curves else []
        for reading in (*points, *READINGS):
            sums: dict[int, list[float]] = defaultdict(list)
            for line in lines:
                if line["loss"] and (reading in points or line[reading]):
                    curve = json.loads(line["curve"])
                    value = curve[points.index(reading)][1] if reading in points else float(line[reading])
                    sums[places[line["group"], line["operators"]]].append(value)
            losses = np.full(len(rows), np.nan)
            for place, values in sums.items():
                losses[place] = np.mean(values)
            shares, right, pairs = [], 0.0, 0
            for group, inside in groups_of(rows).items():
                found = pairs_of(rows, [place for place in inside if place in sums])
                if found:
                    good = agreement(losses, found).sum()
                    shares.append(f"{group.split('_')[0]}_{group.split('_')[1]} {good:g}/{len(found)}")
                    right, pairs = right + good, pairs + len(found)
            print(f"{name:<26} {reading:<12} rows {len(known):>2}  {right:>5g}/{pairs:<4}"
                  f" {right / max(1, pairs):4.0%}   {'  '.join(shares)}")


if __name__ == "__main__":
    main()
