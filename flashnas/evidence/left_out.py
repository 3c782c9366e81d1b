"""Each published row predicted by a model that has not seen its publication, and what a choice among
the rows of a group would have cost.
"""

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
from flashnas.evidence.full_loss import CHARGE, NEW, PARTS, FullLoss, silence_of
from flashnas.evidence.load import Short, full_loss, rows_of, shipped_rows
from flashnas.evidence.table import Table
from flashnas.evidence.trainings import PublishedRow, comparable

MODELS = {"law": ("law",), "evidence": ("law", "mix"), "full": PARTS}
COVERED = 0.9  # of the intervals of predictions
MIN_CHOICES = 4  # rows of a group among which a rule chooses
CHARGES = (0.0, 0.5, 1.0, 1.5, 2.0)  # among which publications choose
WITHIN_SDS = float(norm.ppf(0.5 + COVERED / 2))


def left_out_pairs(
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
    groups, pairs = comparable(rows), []
    for places in groups.values():
        source = rows[places[0]].source
        model = _without(source, parts) if model_without is None else model_without(source)
        prediction = model.predict(_new_table(model, rows, places, short))
        for first, other in itertools.combinations(range(len(places)), 2):
            mean, sd = prediction.difference(first, other)
            pairs.append(
                Pair(
                    places[first],
                    places[other],
                    rows[places[first]].nats - rows[places[other]].nats,
                    mean,
                    math.hypot(sd, math.sqrt(2) * prediction.noise),
                )
            )
    return pairs


def _without(source: str, parts: Sequence[str] = PARTS) -> FullLoss:
    """The shipped model that has not seen a publication."""
    shipped = set(shipped_rows().table.publication)
    return full_loss(without=source if source in shipped else "", parts=parts)


def _new_table(
    model: FullLoss,
    rows: Sequence[PublishedRow],
    places: Sequence[int],
    short: Short | None = None,
) -> Table:
    """The rows of one group as those of a publication that nobody has seen."""
    table = rows_of([rows[place] for place in places], model.law).table
    effects = np.zeros(len(places))
    for number, place in enumerate(places):
        training = None if short is None else short[place]
        if training is not None:
            effects[number] = model.short_effect(*training)
    return dataclasses.replace(table, publication=np.full(len(places), NEW, object), short=effects)


def all_models(rows: Sequence[PublishedRow], short: Short) -> dict[str, list[Pair]]:
    """All pairs as their short losses order them, and as each of MODELS predicts them without their
    publication."""
    losses = np.array([math.nan if training is None else training[1] for training in short])
    return {
        "short": pairs_of(rows, losses),
        **{name: left_out_pairs(rows, parts, short) for name, parts in MODELS.items()},
    }


def left_out(rows: Sequence[PublishedRow], short: Short) -> dict[str, Any]:
    """How well each model predicts the rows of publications that it has not seen; JSON-ready.

    Returns:
        `models` holds the `summary` of each of `all_models`, `models_common` the same over the
        pairs that all of them have, and `regret` what `regret` gives.
    """
    models = all_models(rows, short)
    return {
        "models": {name: summary(rows, pairs) for name, pairs in models.items()},
        "models_common": {name: summary(rows, pairs) for name, pairs in in_common(models).items()},
        "regret": regret(rows),
    }


# -- what a choice costs ---------------------------------------------------------------------------


def regret(rows: Sequence[PublishedRow]) -> dict[str, dict[str, float | None]]:
    """What the row that a rule chooses loses to the best of its group, in nats per token.

    The rules: `shipped`, the lowest mean plus the charge for silence that the other publications
    choose among CHARGES; `mean`, the lowest mean; `pure`, the lowest mean among the stacks of one
    mixer, where the group has one; `random`, any row. The model has not seen the publication.

    Returns:
        Of each rule `pooled`, the mean over groups of at least MIN_CHOICES rows, and `equal`, with
        publications equal; None without such a group.
    """
    charged: dict[str, dict[float, list[float]]] = {}
    regrets: dict[str, dict[str, list[float]]] = {"mean": {}, "pure": {}, "random": {}}
    for places in comparable(rows).values():
        if len(places) < MIN_CHOICES:
            continue
        source = rows[places[0]].source
        model = _without(source)
        table = _new_table(model, rows, places)
        mean, silence = model.predict(table).mean, silence_of(table)
        lost = np.array([rows[place].nats for place in places])
        lost -= lost.min()
        mixers = [
            {spec.kind for spec in rows[place].specs if spec.mixes_tokens} for place in places
        ]
        pure = np.array([len(kinds) == 1 for kinds in mixers])
        of_pure = np.where(pure | ~pure.any(), mean, np.inf)
        for rule, value in (
            ("mean", lost[np.argmin(mean)]),
            ("pure", lost[np.argmin(of_pure)]),
            ("random", lost.mean()),
        ):
            regrets[rule].setdefault(source, []).append(float(value))
        by_charge = charged.setdefault(source, {})
        for charge in CHARGES:
            chosen = int(np.argmin(mean + charge * silence))
            by_charge.setdefault(charge, []).append(float(lost[chosen]))
    shipped = {source: by_charge[_charge(charged, source)] for source, by_charge in charged.items()}
    return {rule: _averages(each) for rule, each in {"shipped": shipped, **regrets}.items()}


def _charge(charged: Mapping[str, Mapping[float, Sequence[float]]], without: str) -> float:
    """The charge with the least regret over the other publications; the shipped one of equals."""

    def cost(charge: float) -> tuple[float, float]:
        others = [by[charge] for source, by in charged.items() if source != without]
        return sum(map(sum, others)), abs(charge - CHARGE)

    return min(CHARGES, key=cost)


def _averages(regrets: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    if not regrets:
        return {"pooled": None, "equal": None}
    values = [value for own in regrets.values() for value in own]
    return {
        "pooled": float(np.mean(values)),
        "equal": float(np.mean([np.mean(own) for own in regrets.values()])),
    }


# -- figures of pairs ------------------------------------------------------------------------------


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
