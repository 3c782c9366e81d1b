"""Each published row foretold by a model that has not seen its publication."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from flashnas.evidence.agreement import MIN_RANKED, Pair, pairs_of, rank_correlation
from flashnas.evidence.full_loss import NEW, PARTS, FullLoss
from flashnas.evidence.load import Short, full_loss, rows_of, shipped_rows
from flashnas.evidence.trainings import PublishedRow, comparable

MODELS = {"law": ("law",), "evidence": ("law", "mix"), "full": PARTS}
COVERED = 0.9  # of the intervals of predictions
WITHIN_SDS = float(norm.ppf(0.5 + COVERED / 2))


def foretell(
    rows: Sequence[PublishedRow],
    parts: Sequence[str] = PARTS,
    short: Short | None = None,
    *,
    model_without: Callable[[str], FullLoss] | None = None,
) -> list[Pair]:
    """All pairs within groups, each predicted by a model without its publication.

    Args:
        short: the short training of each row; None where there is none.
        model_without: source -> the model; None: the shipped one without that publication.
    """
    groups, foretold = comparable(rows), []
    shipped = set(shipped_rows().table.publication)
    for source in dict.fromkeys(rows[places[0]].source for places in groups.values()):
        if model_without is None:
            model = full_loss(without=source if source in shipped else "", parts=parts)
        else:
            model = model_without(source)
        for places in groups.values():
            if rows[places[0]].source != source:
                continue
            table = rows_of(
                [rows[place] for place in places],
                model.law,
                response=model.response,
                short=None if short is None else [short[place] for place in places],
            ).table
            prediction = model.predict(
                dataclasses.replace(table, publication=np.full(len(table), NEW, object))
            )
            for first, other in itertools.combinations(range(len(places)), 2):
                mean, sd = prediction.difference(first, other)
                foretold.append(
                    Pair(
                        places[first],
                        places[other],
                        rows[places[first]].nats - rows[places[other]].nats,
                        mean,
                        math.hypot(sd, math.sqrt(2) * prediction.noise),
                    )
                )
    return foretold


def all_models(rows: Sequence[PublishedRow], short: Short) -> dict[str, list[Pair]]:
    """All pairs as their short losses order them, and as each of MODELS predicts them without their
    publication."""
    losses = np.array([math.nan if training is None else training[1] for training in short])
    return {
        "short": pairs_of(rows, losses),
        **{name: foretell(rows, parts, short) for name, parts in MODELS.items()},
    }


def left_out(rows: Sequence[PublishedRow], short: Short) -> dict[str, Any]:
    """How well each model predicts the rows of publications that it has not seen; JSON-ready.

    Returns:
        `models` holds the `summary` of each of `all_models`, `models_common` the same over the
        pairs that all of them have.
    """
    models = all_models(rows, short)
    return {
        "models": {name: summary(rows, pairs) for name, pairs in models.items()},
        "models_common": {name: summary(rows, pairs) for name, pairs in in_common(models).items()},
    }


def in_common(models: Mapping[str, Sequence[Pair]]) -> dict[str, list[Pair]]:
    """Of each model the pairs that all models have."""
    places = set.intersection(
        *({(pair.one, pair.other) for pair in pairs} for pairs in models.values())
    )
    return {
        name: [pair for pair in pairs if (pair.one, pair.other) in places]
        for name, pairs in models.items()
    }


def summary(rows: Sequence[PublishedRow], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Figures of pairs, JSON-ready.

    pairs, right, share: of clear ones. Of all pairs: rmse_nats of the differences, coverage of the
    90 % intervals, log_score. publications: the same means with equal weights of the publications,
    and of the groups within one.
    """
    if not pairs:
        return {
            "pairs": 0,
            "right": 0,
            "share": None,
            "rmse_nats": None,
            "coverage": None,
            "log_score": None,
            "publications": {},
            "groups": [],
        }
    table = pd.DataFrame(
        [
            {
                **dataclasses.asdict(pair),
                "clear": pair.clear,
                "right": pair.right,
                "source": rows[pair.one].source,
                "group": rows[pair.one].group,
            }
            for pair in pairs
        ]
    )
    error, sd = table["published"] - table["predicted"], table["sd"].astype(float)
    table["square"], table["score"] = error**2, norm.logpdf(error, 0, sd)
    table["inside"] = (error.abs() < WITHIN_SDS * sd).where(sd.notna()).astype(float)
    each = {
        str(source): _figures(rows, some) for source, some in table.groupby("source", sort=False)
    }
    equal = pd.DataFrame(each).astype(float).mean(axis=1)
    shown = ("pairs", "right", "share", "spearman", "rmse_nats", "coverage")
    pooled = {
        **_counts(table),
        "rmse_nats": float(np.sqrt(table["square"].mean())),
        **_of_intervals(table),
    }
    return _none_for_nan(
        {
            **pooled,
            "groups": [
                {"group": name, "pairs": counts["pairs"], "right": counts["right"]}
                for name, some in table.groupby("group", sort=False)
                for counts in [_counts(some)]
            ],
            "publications": {
                **{
                    name: float(equal[name])
                    for name in ("share", "spearman", "coverage", "log_score")
                },
                "rmse_nats": float(np.sqrt(equal["square"])),
                "each": {
                    source: {name: figures[name] for name in shown}
                    for source, figures in each.items()
                },
            },
        }
    )


def _counts(table: pd.DataFrame) -> dict[str, Any]:
    right = table.loc[table["clear"], "right"]
    return {"pairs": len(right), "right": float(right.sum()), "share": float(right.mean())}


def _of_intervals(table: pd.DataFrame) -> dict[str, float]:
    return {"coverage": float(table["inside"].mean()), "log_score": float(table["score"].mean())}


def _figures(rows: Sequence[PublishedRow], table: pd.DataFrame) -> dict[str, Any]:
    """Of one publication, with equal weights of its groups; NaN where there is nothing to take a
    figure of.
    """
    groups = [some for _, some in table.groupby("group", sort=False)]
    square = float(np.mean([some["square"].mean() for some in groups]))
    ranks = pd.Series([_rank_correlation_of(rows, some) for some in groups])
    return {
        **_counts(table),
        **_of_intervals(table),
        "spearman": float(ranks.mean()),
        "square": square,
        "rmse_nats": float(np.sqrt(square)),
    }


def _rank_correlation_of(rows: Sequence[PublishedRow], table: pd.DataFrame) -> float:
    """Of the rows of one group; NaN below MIN_RANKED rows, or where the prediction is constant."""
    first = table["one"].iloc[0]
    own = table[table["one"] == first]
    places, predicted = [first, *own["other"]], [0.0, *-own["predicted"]]
    if len(places) < MIN_RANKED or np.ptp(predicted) == 0:
        return math.nan
    return rank_correlation(predicted, [rows[place].nats for place in places])


def _none_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _none_for_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_none_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
