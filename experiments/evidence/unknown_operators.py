"""What a short training says of an operator that no publication has: each operator in turn is taken
for unknown.

    python experiments/evidence/unknown_operators.py     # a second of one core

The differences between rows of one group with another share of the operator are predicted from size
and shape alone, by a model without the publication; and from these plus the short losses beyond
size and shape, whose weight is fitted to the other operators. `effect` is the slope of what size
and shape leave against the share of the operator: how wrong one is about an operator in full.
`short_effect` is the same of the short losses beyond size and shape.

Expected: unknown_operators.csv, the table of docs/evidence.md; about 0.22 for the weight, and a
root mean square of the effects of about 0.03 nats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from left_out import left_out_pairs
from short_trainings import short_trainings

from flashnas.loss.load import fitted
from flashnas.loss.model import response_row
from flashnas.loss.publications import CLEAR_NATS
from flashnas.observations.losses import read_published

OPERATORS = ("a", "swa", "m", "m2", "gla", "d", "gd", "r7")
OF_SIZE = 2  # the first entries of a response: ln N and r


def pairs() -> pd.DataFrame:
    """Differences of all pairs whose rows both have a short training: published, predicted from size
    and shape, of the short losses, of these beyond size and shape, and of the shares of operators.
    """
    rows = read_published()
    short = short_trainings(rows)
    response = np.array(fitted()["response"][:OF_SIZE])
    shares = np.zeros((len(rows), len(OPERATORS)))
    beyond = np.full(len(rows), np.nan)
    for number, (row, training) in enumerate(zip(rows, short, strict=True)):
        mixers = [spec.kind for spec in row.specs if spec.mixes_tokens]
        shares[number] = [mixers.count(kind) / max(1, len(mixers)) for kind in OPERATORS]
        if training is not None:
            proxy, loss = training
            beyond[number] = loss - response_row(proxy)[:OF_SIZE] @ response
    found = []
    for pair in left_out_pairs(rows, mix=False):
        trainings = short[pair.one], short[pair.other]
        if trainings[0] is None or trainings[1] is None:
            continue
        found.append(
            {
                "published": pair.published,
                "size": pair.predicted,
                "short": trainings[0][1] - trainings[1][1],
                "beyond": beyond[pair.one] - beyond[pair.other],
                **dict(zip(OPERATORS, shares[pair.one] - shares[pair.other], strict=True)),
            }
        )
    return pd.DataFrame(found)


def right(table: pd.DataFrame, predicted: pd.Series) -> float:
    """Pairs in the published order; a tie counts half."""
    return float((0.5 + 0.5 * np.sign(table.published * predicted)).sum())


def slope(x: pd.Series, y: pd.Series) -> float:
    return float(x @ y / (x @ x))


def study() -> pd.DataFrame:
    table = pairs()
    left = table.published - table["size"]
    lines = []
    for kind in OPERATORS:
        others = table[[name for name in OPERATORS if name != kind]].any(axis=1)
        learnt = others & (table[kind] == 0)
        weight = slope(table.beyond[learnt], left[learnt])
        has = table[kind] != 0
        both = table["size"] + weight * table.beyond
        clear = table[has & (table.published.abs() > CLEAR_NATS)]
        lines.append(
            {
                "operator": kind,
                "clear_pairs": len(clear),
                "size_and_shape": right(clear, clear["size"]),
                "short_loss_alone": right(clear, clear.short),
                "both": right(clear, both[clear.index]),
                "weight": weight,
                "effect": slope(table[kind][has], left[has]),
                "effect_left_by_both": slope(table[kind][has], (table.published - both)[has]),
                "short_effect": slope(table[kind][has], table.beyond[has]),
            }
        )
    return pd.DataFrame(lines)


if __name__ == "__main__":
    found = study()
    found.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(found.round(3).to_string(index=False))
    counts = ["clear_pairs", "size_and_shape", "short_loss_alone", "both"]
    print("all", found[counts].sum().to_dict(), "median weight", round(found.weight.median(), 3))
    for name in ("effect", "effect_left_by_both", "short_effect"):
        print(f"root mean square of {name}: {np.sqrt((found[name] ** 2).mean()):.3f}")
