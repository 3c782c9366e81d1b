"""How well the model of recall predicts publications that it has not seen, and which form they ask
for.

    python experiments/evidence/recall.py     # the figures of docs/loss.md as JSON; seconds

pairs: clear ones; right: those in the published order, a tie counts half. Means over publications:
share of right pairs, spearman, rmse of differences, coverage90 of their intervals, log_score of a
difference. by_publication: the same of each. chosen: the same with the form chosen by the other
publications only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.loss.mix import stacks
from flashnas.loss.recall import FORM, Form, RecallModel, RecallRow, read_recall, same

CLEAR = 0.03  # rows further apart than this are a clear pair
FORMS: list[Form] = [
    (s, t, d) for s in (0.05, 0.1, 0.2) for t in (0.0, 0.15, 0.3) for d in (False, True)
]


def leave_one_out(rows: Sequence[RecallRow]) -> dict[str, Any]:
    """With the shipped form, and `chosen`: with that of the other publications."""
    return {**_left_out(rows, FORM), "chosen": _left_out(rows, None)}


def choose_form(rows: Sequence[RecallRow]) -> Form:
    """The form with the best log score, on average over publications that are left out in turn."""
    return max(FORMS, key=lambda form: _left_out(rows, form)["log_score"])


def _left_out(rows: Sequence[RecallRow], form: Form | None) -> dict[str, Any]:
    scores = {}
    for source in dict.fromkeys(row.source for row in rows):
        others = [row for row in rows if row.source != source]
        model = RecallModel(others, form or choose_form(others))
        scores[source] = score(model, [row for row in rows if row.source == source])
    sums = {
        name: sum(figures[name] for figures in scores.values())
        for name in next(iter(scores.values()))
    }
    means = {
        name: total / len(scores) for name, total in sums.items() if name not in ("pairs", "right")
    }
    return {**sums, **means, "by_publication": scores}


def score(model: RecallModel, rows: Sequence[RecallRow]) -> dict[str, float]:
    """The figures of one publication."""
    mean, covariance = model.predict(stacks([row.specs for row in rows]))
    alike, variance = same(rows, "group"), np.diag(covariance)
    gaps, predicted = (
        np.subtract.outer(x, x).round(9) for x in (np.array([row.value for row in rows]), mean)
    )
    ranks = [(np.sign(differences) * alike).sum(axis=1) for differences in (gaps, predicted)]
    pairs = np.triu(alike, 1)
    error, variance = (
        (gaps - predicted)[pairs],
        (np.add.outer(variance, variance) - 2 * covariance)[pairs],
    )
    right = (0.5 + 0.5 * np.sign(gaps * predicted))[pairs & (np.abs(gaps) > CLEAR)]
    return {
        "pairs": len(right),
        "right": right.sum(),
        "share": right.mean(),
        "spearman": np.corrcoef(ranks)[0, 1],
        "rmse": np.sqrt(np.mean(error**2)),
        "coverage90": np.mean(np.abs(error) < 1.6449 * np.sqrt(variance)),
        "log_score": np.mean(-(error**2) / variance - np.log(2 * np.pi * variance)) / 2,
    }


if __name__ == "__main__":
    print(json.dumps(leave_one_out(read_recall()), indent=1, default=float))
