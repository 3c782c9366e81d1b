"""Each published row predicted by a model that has not seen its publication, and what a choice among
the rows of a group would have cost.

    python experiments/evidence/left_out.py              # of the shipped rows, as JSON; seconds
    python experiments/evidence/left_out.py rows.csv     # of rows that were kept back, with the
                                                         # columns of published_training.csv

A pair is two rows of one group. It is clear if their published losses differ by more than
CLEAR_NATS. A tie counts half.

Expected of the shipped rows: the tables of docs/loss.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pairs import Pair, as_new_publication, predicted_pairs
from scipy.stats import spearmanr
from short_trainings import Short, short_trainings

from flashnas.loss.load import shipped_model, shipped_rows
from flashnas.loss.model import CHARGE, FullLoss, silence_of
from flashnas.loss.prediction import COVERED, WITHIN_SDS
from flashnas.observations.losses import ObservedLoss, groups_without_repeats
from flashnas.observations.read_losses import read_published

MIN_RANKED = 3  # rows of a group of which a rank correlation can be taken
MIN_CHOICES = 4  # rows of a group among which a rule chooses
MEANS = ("square", "coverage", "log_score", "interval_score")  # over pairs
RULES = ("shipped", "mean", "pure", "random")  # of a choice
CHARGES = (0.0, 0.5, 1.0, 1.5, 2.0)  # among which publications choose


def pairs_of(rows: Sequence[ObservedLoss], losses: np.ndarray) -> list[Pair]:
    """All pairs within comparable groups of rows that have a loss [N]; NaN: none."""
    return [
        Pair(one, other, rows[one].nats - rows[other].nats, float(losses[one] - losses[other]))
        for members in groups_without_repeats(rows).values()
        for one, other in itertools.combinations(members, 2)
        if np.isfinite(losses[[one, other]]).all()
    ]


def left_out_pairs(rows: Sequence[ObservedLoss]) -> list[Pair]:
    """All pairs within groups, each predicted by the shipped model without its publication."""
    return predicted_pairs(rows, without)


def without(source: str) -> FullLoss:
    """The shipped model that has not seen a publication."""
    shipped = set(shipped_rows().publication)
    return shipped_model(source if source in shipped else "")


def all_models(rows: Sequence[ObservedLoss], short: Short) -> dict[str, list[Pair]]:
    """All pairs as their short losses order them, and as the model predicts them without their
    publication."""
    losses = np.array([training.nats if training else math.nan for training in short])
    return {"short": pairs_of(rows, losses), "evidence": left_out_pairs(rows)}


def left_out(rows: Sequence[ObservedLoss], short: Short) -> dict[str, Any]:
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


def regret(rows: Sequence[ObservedLoss]) -> dict[str, dict[str, float | None]]:
    """What the row that a rule chooses loses to the best of its group, in nats per token.

    The rules: `shipped`, the lowest mean plus the charge for silence that the other publications
    choose among CHARGES; `mean`, the lowest mean; `pure`, the lowest mean among the stacks of one
    mixer, where the group has one; `random`, any row. The model has not seen the publication.

    Returns:
        Of each rule `pooled`, the mean over groups of at least MIN_CHOICES rows, and `equal`, with
        publications equal; None without such a group.
    """
    lines: list[dict[Any, Any]] = []
    for members in groups_without_repeats(rows).values():
        if len(members) < MIN_CHOICES:
            continue
        source = rows[members[0]].source
        model = without(source)
        table = as_new_publication(model, [rows[index] for index in members])
        mean, silence = model.predict(table).mean, silence_of(table)
        lost = np.array([rows[index].nats for index in members])
        lost -= lost.min()
        mixers = [[spec.kind for spec in rows[i].specs if spec.mixes_tokens] for i in members]
        pure = np.array([len(set(kinds)) == 1 for kinds in mixers])
        lines.append(
            {
                "source": source,
                "mean": lost[np.argmin(mean)],
                "pure": lost[np.argmin(np.where(pure | ~pure.any(), mean, np.inf))],
                "random": lost.mean(),
                **{charge: lost[np.argmin(mean + charge * silence)] for charge in CHARGES},
            }
        )
    if not lines:
        return {rule: {"pooled": None, "equal": None} for rule in RULES}
    regrets = pd.DataFrame(lines)
    regrets["shipped"] = [line[charge_without(regrets, line["source"])] for line in lines]
    return {
        rule: {
            "pooled": float(regrets[rule].mean()),
            "equal": float(regrets.groupby("source")[rule].mean().mean()),
        }
        for rule in RULES
    }


def charge_without(regrets: pd.DataFrame, source: str) -> float:
    """The charge with the least regret over the other publications; the shipped one of equals.

    Args:
        regrets: one row for each group: its `source`, and the regret under each of CHARGES.
    """
    others = regrets[regrets.source != source]
    return min(CHARGES, key=lambda charge: (others[charge].sum(), abs(charge - CHARGE)))


# -- figures of pairs ------------------------------------------------------------------------------


def in_common(models: Mapping[str, Sequence[Pair]]) -> dict[str, list[Pair]]:
    """Of each model the pairs that all models have."""
    common = set.intersection(
        *({(pair.one, pair.other) for pair in pairs} for pairs in models.values())
    )
    return {
        name: [pair for pair in pairs if (pair.one, pair.other) in common]
        for name, pairs in models.items()
    }


def summary(rows: Sequence[ObservedLoss], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Figures of pairs, JSON-ready; None where there is nothing to take a figure of.

    pairs, right, share: of clear ones. Of all pairs: rmse_nats of the differences, coverage of the
    90 % intervals and half_width, their median one, log_score, and interval_score: the width of an
    interval, and 20 times by how much a difference lies outside (Gneiting and Raftery, 2007).
    publications: the same means with equal weights of the publications, and of the groups within one.
    """
    if not pairs:
        figures = dict.fromkeys(("share", "rmse_nats", *MEANS[1:], "half_width"))
        return {"pairs": 0, "right": 0, **figures, "publications": {}, "groups": []}
    table = pd.DataFrame(map(dataclasses.asdict, pairs))
    error, sd = table["published"] - table["predicted"], table["sd"].astype(float)
    table["right"] = [pair.right if pair.clear else math.nan for pair in pairs]
    table["square"], table["log_score"] = error**2, table["log_score"].astype(float)
    outside = (error.abs() - WITHIN_SDS * sd).clip(lower=0)
    table["interval_score"] = 2 * (WITHIN_SDS * sd + outside / (1 - COVERED))
    table["coverage"] = (error.abs() < WITHIN_SDS * sd).where(sd.notna()).astype(float)
    for name in ("source", "group"):
        table[name] = [getattr(rows[pair.one], name) for pair in pairs]
    groups = [
        {"group": name, **_figures(part), "spearman": _rank_correlation(rows, part)}
        for name, part in table.groupby("group", sort=False)
    ]
    by_source: dict[str, dict[str, Any]] = {}
    for source, part in table.groupby("source", sort=False):
        names = set(part["group"])
        of_groups = pd.DataFrame([group for group in groups if group["group"] in names])
        by_source[str(source)] = {
            **_figures(part),
            "spearman": of_groups["spearman"].mean(),
            "square": of_groups["square"].mean(),
        }
    means = pd.DataFrame(by_source).astype(float).mean(axis=1)
    shown = ("pairs", "right", "share", "spearman", "coverage")
    pooled = _figures(table)
    found = {
        **{name: pooled[name] for name in ("pairs", "right", "share")},
        "rmse_nats": math.sqrt(pooled["square"]),
        **{name: pooled[name] for name in MEANS[1:]},
        "half_width": float(WITHIN_SDS * sd.median()),
        "groups": [{name: group[name] for name in ("group", "pairs", "right")} for group in groups],
        "publications": {
            **{name: means[name] for name in ("share", "spearman", *MEANS[1:])},
            "rmse_nats": math.sqrt(means["square"]),
            "each": {
                source: {
                    **{name: figures[name] for name in shown},
                    "rmse_nats": math.sqrt(figures["square"]),
                }
                for source, figures in by_source.items()
            },
        },
    }
    return _none_for_nan(found)


def _figures(table: pd.DataFrame) -> dict[str, Any]:
    """Counts of clear pairs, and means over all pairs of a table."""
    clear = table["right"].dropna()
    return {
        "pairs": len(clear),
        "right": float(clear.sum()),
        "share": float(clear.mean()),
        **{name: float(table[name].mean()) for name in MEANS},
    }


def _rank_correlation(rows: Sequence[ObservedLoss], table: pd.DataFrame) -> float:
    """Spearman's, of the rows of one group; NaN below MIN_RANKED rows, or where the prediction is
    constant."""
    first = table["one"].iloc[0]
    with_first = table[table["one"] == first]
    predicted = [0.0, *-with_first["predicted"]]
    published = [rows[index].nats for index in (first, *with_first["other"])]
    if len(published) < MIN_RANKED or np.ptp(predicted) == 0:
        return math.nan
    return float(spearmanr(predicted, published).statistic) if np.ptp(published) > 0 else 0.0


def _none_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _none_for_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_none_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    published = read_published(*sys.argv[1:])
    print(json.dumps(left_out(published, short_trainings(published)), indent=1))
