"""Does a score of several parts order published pairs better than the loss? Fitted without the group it is tried on.

    python experiments/proxy_recipe/fitted.py [TRIAL]     # reads trials.csv; a few seconds

For each held-out group the weights are fitted on the pairs of all other groups by logistic regression, pulled towards
the loss alone. `all` is fitted and tried on the same pairs: the best that the parts could do. The part `tasks` is read
from tasks.csv: 1 - the accuracy on tasks of recall. The last line chooses one of several readings, without weights: the
one that orders most pairs of the other groups.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from levers import clear_pairs, readings_of
from levers import right as right_of
from scipy.optimize import minimize

from flashnas.evidence.agreement import Pair
from flashnas.evidence.trainings import PublishedRow, read_published

LEAST_NATS = 0.03     # a feature of the layout moves the score by about this much before it is fitted
PULL = 0.03           # strength of the pull towards the loss alone
SCORES = (("loss",), ("loss", "late"), ("loss", "rare"), ("loss", "late", "rare", "recall"),
          ("loss", "hybrid"), ("loss", "attention"), ("loss", "ffn"), ("loss", "kinds"), ("loss", "tasks"))
CHOICES = ("loss", "late", "recall", "no_recall", "frequent", "rare", "copied")


def layout(row: PublishedRow) -> dict[str, float]:
    """What can be read off the operators without a training."""
    mixers = [spec.kind for spec in row.specs if spec.mixes_tokens]
    return {"hybrid": len(set(mixers)) > 1, "kinds": len(set(mixers)),
            "attention": sum(kind in ("a", "swa") for kind in mixers) / len(mixers),
            "ffn": 1 - len(mixers) / len(row.specs)}


def tasks() -> dict[tuple[str, str], float]:
    """1 - the accuracy on tasks of recall, by group and operators, as tasks.py wrote it."""
    with Path(__file__).with_name("tasks.csv").open(newline="") as file:
        return {(line["group"], line["operators"]): 1 - float(line["recall"]) for line in csv.DictReader(file)}


def parts_of(rows: list[PublishedRow], lines: list[dict[str, str]], names: tuple[str, ...]) -> np.ndarray:
    """[rows, names]; nan where the trial lacks a row."""
    readings: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for line in lines:
        readings[line["group"], line["operators"]].append(line)
    result, accuracies = np.full((len(rows), len(names)), np.nan), tasks()
    for place, row in enumerate(rows):
        for column, name in enumerate(names):
            if found := readings.get((row.group, row.operators)):
                known = layout(row) | {"tasks": accuracies.get((row.group, row.operators), np.nan)}
                result[place, column] = (LEAST_NATS * known[name] if name in known else
                                         np.mean([float(line[name]) for line in found]))
    return result


def fit(parts: np.ndarray, pairs: list[Pair]) -> np.ndarray:
    """A weight for each part; the first is the loss."""
    gaps = np.array([parts[worse] - parts[better] for better, worse in (pair.order for pair in pairs)])
    start = np.eye(parts.shape[1])[0]
    scale = 2 / gaps.std(axis=0).mean()

    def cost(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -scale * gaps @ weights).mean() + PULL * ((weights - start) ** 2).sum())

    return np.asarray(minimize(cost, start).x)


def main() -> None:
    """Print one line for each score."""
    trial = sys.argv[1] if sys.argv[1:] else "cpu"
    rows = read_published()
    with Path(__file__).with_name("trials.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["trial"] == trial and line["loss"]]
    for names in SCORES:
        parts = parts_of(rows, lines, names)
        known = np.isfinite(parts).all(axis=1)
        groups = clear_pairs(rows, known)
        right = {group: right_of(parts @ fit(parts, [pair for other in groups if other != group
                                                      for pair in groups[other]]), pairs).sum()
                 for group, pairs in groups.items()}
        every = [pair for pairs in groups.values() for pair in pairs]
        weights = fit(parts, every)
        best, total = right_of(parts @ weights, every).sum(), len(every)
        named = "  ".join(f"{name} {weight / weights[0]:+.2f}" for name, weight in zip(names, weights, strict=True))
        print(f"{sum(right.values()):>5g}/{total} left out  {best:>5g}/{total} all   {named}")
    choose(rows, lines)


def choose(rows: list[PublishedRow], lines: list[dict[str, str]]) -> None:
    """Print the pairs that the one of CHOICES orders rightly that was chosen without their group."""
    places = {(row.group, row.operators): place for place, row in enumerate(rows)}
    losses: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(rows), np.nan))
    for line in lines:
        for name, value in readings_of(line).items():
            losses[name][places[line["group"], line["operators"]]] = value
    known = np.isfinite(losses["loss"])
    pairs = clear_pairs(rows, known)
    right = {name: {group: right_of(losses[name], found).sum() for group, found in pairs.items()}
             for name in CHOICES if np.isfinite(losses[name][known]).all()}
    chosen = {group: max(right, key=lambda name: sum(right[name].values()) - right[name][group]) for group in pairs}
    count = sum(right[name][group] for group, name in chosen.items())
    print(f"{count:>5g}/{sum(map(len, pairs.values()))} chosen of all readings at the end: "
          + ", ".join(f"{name} ({list(chosen.values()).count(name)} of {len(chosen)} groups)"
                      for name in dict.fromkeys(chosen.values())))


if __name__ == "__main__":
    main()
