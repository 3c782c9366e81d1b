"""What each lever did: for every trial and reading, how many published pairs it orders rightly.

    python experiments/proxy_recipe/levers.py [TRIAL ..]     # reads trials.csv; 5 s for a trial of all rows

Columns: clear pairs with their share and its 95 % interval, those on which groups agree, those 0.01 to 0.02 nats apart,
Spearman's rank correlation, and the clear pairs of each group. Rows that a trial did not train do not count; compare
trials over the same rows (column `rows`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashnas.evidence.agreement import Agreement, Pair, measure, pairs_of
from flashnas.evidence.trainings import PublishedRow, groups_of, read_published

READINGS = ("loss", "late", "recall", "no_recall", "frequent", "rare", "copied", "answers")


def readings_of(line: dict[str, str]) -> dict[str, float]:
    """The points of a curve, and the readings at its end."""
    curve = json.loads(line["curve"])
    found = {f"curve {tokens // 1024}k": loss for tokens, loss in curve[:-1]}
    return found | {name: float(line[name]) for name in READINGS if line[name]}


def clear_pairs(rows: Sequence[PublishedRow], known: np.ndarray) -> dict[str, list[Pair]]:
    """The clear pairs of each group that has some, of the rows in a mask."""
    losses = np.where(known, 0.0, np.nan)
    pairs = {name: [pair for pair in pairs_of(rows, losses, [places]) if pair.clear]
             for name, places in groups_of(rows).items()}
    return {name: some for name, some in pairs.items() if some}


def right(losses: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """1.0 for each pair whose order the losses (one per row) have, 0.5 for a tie, 0.0 for a wrong order."""
    return np.array([dataclasses.replace(pair, predicted=losses[pair.one] - losses[pair.other]).right
                     for pair in pairs])


def count(found: Agreement) -> str:
    return f"{found.right:g}/{found.pairs}"


def close(found: Agreement) -> str:
    return f"{found.close_right:g}/{found.close_pairs}"


def main() -> None:
    """Print one line for each trial and reading."""
    path = Path(sys.argv.pop(1)) if len(sys.argv) > 1 and sys.argv[1].endswith(".csv") else Path(
        __file__).with_name("trials.csv")
    rows = read_published()
    places = {(row.group, row.operators): place for place, row in enumerate(rows)}
    trials: dict[str, dict[str, dict[int, list[float]]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["loss"] and (not sys.argv[1:] or line["trial"] in sys.argv[1:]):
                readings = trials.setdefault(line["trial"], defaultdict(lambda: defaultdict(list)))
                for reading, value in readings_of(line).items():
                    readings[reading][places[line["group"], line["operators"]]].append(value)
    print(f"{'trial':<24} {'reading':<12} rows  clear pairs, 95 %       agreed  close  Spearman  by group")
    for trial, readings in trials.items():
        for reading, values in readings.items():
            losses = np.full(len(rows), np.nan)
            for place, found in values.items():
                losses[place] = np.mean(found)
            result = measure(rows, losses)
            overall = result.overall
            groups = "  ".join(f"{'_'.join(name.split('_')[:2])} {count(group)}"
                               for name, group in result.groups.items() if group.pairs)
            share = ""
            if overall.share is not None and overall.interval is not None:
                share = f"{overall.share:.0%} [{overall.interval[0]:.2f}, {overall.interval[1]:.2f}]"
            spearman = "" if overall.spearman is None else f"{overall.spearman:.2f}"
            print(f"{trial:<24} {reading:<12} {len(values):>4}  {count(overall):>8} {share:<17}"
                  f"  {count(result.consensus):>6}  {close(overall):>5}  {spearman:>8}  {groups}", flush=True)


if __name__ == "__main__":
    main()
