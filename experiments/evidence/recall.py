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
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.loss.mix import stacks
from flashnas.loss.recall import (
    FORM,
    NOISE,
    OWN,
    SHIPPED,
    Form,
    RecallModel,
    effects_of,
    mixture_of,
)
from flashnas.observations.read_losses import read_rows, specs_of
from flashnas.operators import OperatorSpec

NEEDED = ("group", "source", "operators", "metric", "value")
FULL_MARKS = {"recall_": 100.0, "ruler_": 1.0}  # of a value, by the start of its metric
# Priors: standard deviations of b1 to b4, of the common value. The mean of b1 is the negative level of
# transformers, because a network that answers nothing has no marks; of the others it is 0.
COMMON = np.array([0.1, 0.15, 0.05, 0.05])
SCALE_ROWS = 10  # a scale of 1 has the weight of so many rows
LEVEL, LEVEL_SD = 0.4, 1.0  # of a group
CLEAR = 0.03  # rows further apart than this are a clear pair
FORMS: list[Form] = [
    (s, t, d) for s in (0.05, 0.1, 0.2) for t in (0.0, 0.15, 0.3) for d in (False, True)
]


@dataclass(frozen=True)
class RecallRow:
    """One published network. operators: notation without a width; specs: parsed. value: marks, 0 to
    1.
    """

    group: str
    source: str
    operators: str
    specs: tuple[OperatorSpec, ...]
    value: float


def read_recall() -> list[RecallRow]:
    """The shipped rows."""
    return [_row(place, line) for place, line in read_rows(SHIPPED, NEEDED)]


def _row(place: str, line: dict[str, str]) -> RecallRow:
    full = next(m for start, m in FULL_MARKS.items() if line["metric"].startswith(start))
    specs = specs_of(place, line["operators"])
    value = float(line["value"]) / full
    return RecallRow(line["group"], line["source"], line["operators"], specs, value)


def fit_recall(rows: Sequence[RecallRow], form: Form = FORM) -> RecallModel:
    """The posterior of b1 to b4 after published rows: a publication is a random draw of these."""
    # a model without some publication still likens what that one alone has to its family
    kinds = frozenset(spec.kind for row in read_recall() for spec in row.specs)
    mixture = mixture_of(stacks([row.specs for row in rows]), kinds)
    value = np.array([row.value for row in rows])
    having = {(spec.kind, row.source) for row in rows for spec in row.specs}
    effects = effects_of(mixture, form)
    level = value[mixture.full > 0.999]
    prior = np.array([-level.mean() if len(level) else -LEVEL, 0, 0, 0])
    covariance = (
        effects * COMMON**2 @ effects.T
        + same(rows, "source") * (effects * OWN**2 @ effects.T)
        + NOISE**2 * np.eye(len(rows))
        + LEVEL_SD**2 * same(rows, "group")
    )
    gaps = value - LEVEL - effects @ prior
    weights = np.linalg.solve(covariance, np.c_[gaps, effects])
    freedom = SCALE_ROWS + len(rows) - len({row.group for row in rows})
    explained = np.outer(COMMON, COMMON) ** 2 * (effects.T @ weights[:, 1:])
    return RecallModel(
        form=form,
        kinds=kinds,
        publications=dict(sorted(Counter(kind for kind, _ in having).items())),
        mixers=int(mixture.mixers.min()),
        states={
            frozenset(kind for kind, share in mixture.states.items() if share[index])
            for index in range(len(rows))
        },
        mean=prior + COMMON**2 * (effects.T @ weights[:, 0]),
        covariance=np.diag(COMMON**2) - explained,
        scale=math.sqrt((SCALE_ROWS + gaps @ weights[:, 0]) / freedom),
    )


def shipped(model: RecallModel) -> dict[str, Any]:
    """As fitted.json holds it."""
    return {
        "publications": model.publications,
        "mixers": model.mixers,
        "states": sorted(map(sorted, model.states)),
        "mean": model.mean.tolist(),
        "covariance": model.covariance.tolist(),
        "scale": model.scale,
    }


def same(rows: Sequence[RecallRow], name: str) -> np.ndarray:
    return np.array(
        [[getattr(row, name) == getattr(other, name) for other in rows] for row in rows]
    )


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
        model = fit_recall(others, form or choose_form(others))
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
