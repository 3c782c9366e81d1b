"""Fit the model of the full loss to the published trainings, and say how well it predicts what it
has not seen.

    python experiments/evidence/fit.py            # fitted.json and results.json; a minute
    python experiments/evidence/fit.py --no-fit   # only results.json, of the constants that ship

Expected: the constants that ship, and the tables of README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
from experts import with_experts
from fitting import (
    ShapeRow,
    ffn_rows,
    fit_fidelity,
    fit_law,
    fit_spreads,
    read_shapes,
)
from left_out import left_out_pairs, regret, summary
from lengths import fit_lengths, pairs
from pairs import CLEAR_NATS
from recall import fit_recall, read_recall, shipped

from flashnas.base.system import write_atomic
from flashnas.loss.composition import Rows
from flashnas.loss.load import FITTED, digests, fitted, rows_of
from flashnas.loss.model import FullLoss, Spreads
from flashnas.observations.losses import dense_twin
from flashnas.observations.read_losses import EXPERTS, SHORT_TRAININGS, read_published

HERE = Path(__file__).parent
DIGITS = 8
SIZE_CLASSES = ("gem_50m", "gem_100m", "gem_500m", "gem_1b")


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def without(rows, source: str):
    """The rows of all other publications."""
    return rows.take(np.flatnonzero(rows.publication != source))


def fit():
    """The constants, and what they were fitted to."""
    lengths, _ = fit_lengths(pairs())
    law = fit_law(read_shapes(), lengths)
    # networks of a group have the same experts, which are a part of its level
    twins = [dense_twin(row) for row in read_published()]
    rows = Rows.joined(rows_of(twins, law), ffn_rows(law))
    found = _fitted_spreads(rows, law)
    slope = FullLoss(rows, Spreads(**found["spreads"]), law).coefficients()["law"][0]
    law, sds = with_experts(law, slope, read_published(EXPERTS))
    for part in (found["spreads"], *found["folds"].values()):
        part["common"] |= sds
    model = FullLoss(rows, Spreads(**found["spreads"]), law)
    return rounded(
        {
            "digests": digests(),
            "recall": shipped(fit_recall(read_recall())),
            "law": dataclasses.asdict(law),
            **found,
            "coefficients": {
                name: dict(zip(("mean", "sd"), values, strict=True))
                for name, values in model.coefficients().items()
            },
            "rows": {
                "x": rows.x.tolist(),
                "shares": rows.shares.tolist(),
                "ffn": rows.ffn.tolist(),
                "far": rows.far.tolist(),
                "shape": rows.shape.tolist(),
                "publication": list(rows.publication),
                "nats": rows.nats.tolist(),
                "level": list(rows.level),
            },
        }
    )


def _fitted_spreads(rows, law):
    """Of all publications, and of all but each."""
    short = rows_of(read_published(SHORT_TRAININGS), law)

    def of(part):
        return dataclasses.asdict(fit_fidelity(part, short, fit_spreads(part, law), law))

    folds = {source: of(without(rows, source)) for source in dict.fromkeys(rows.publication)}
    return {"spreads": of(rows), "folds": folds}


def shapes_left_out(rows: list[ShapeRow]):
    """The law fitted without a size class orders the shapes of that class: clear pairs of equal
    tokens, and those in the published order."""
    found = {}
    lengths, _ = fit_lengths(pairs())
    for size in SIZE_CLASSES:
        law = fit_law([row for row in rows if not row.group.startswith(f"{size}_")], lengths)
        count = right = 0
        for group in dict.fromkeys(row.group for row in rows if row.group.startswith(f"{size}_")):
            members = [row for row in rows if row.group == group]
            params, tokens, width = (
                np.array([getattr(row, name) for row in members])
                for name in ("params", "tokens", "width")
            )
            losses = law.by_shape(params, width) + law.by_tokens(params, tokens)
            for one, other in itertools.combinations(range(len(members)), 2):
                gap = members[one].loss - members[other].loss
                if abs(gap) > CLEAR_NATS:
                    count, right = count + 1, right + (gap * (losses[one] - losses[other]) > 0)
        found[size] = {"pairs": count, "right": int(right)}
    total = {name: sum(counts[name] for counts in found.values()) for name in ("pairs", "right")}
    return {**total, "share": total["right"] / total["pairs"], "classes": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-fit", action="store_true", help="measure the constants that ship")
    options = parser.parse_args()
    if not options.no_fit:
        text = json.dumps(fit(), indent=None, separators=(",", ":")) + "\n"
        write_atomic(FITTED, text)
        fitted.cache_clear()
    trainings = read_published()
    found = rounded(
        {
            "left_out": summary(trainings, left_out_pairs(trainings)),
            "shapes": shapes_left_out(read_shapes()),
            "regret": regret(trainings),
        }
    )
    text = json.dumps(found, indent=1)
    write_atomic(HERE / "results.json", text + "\n")
    print(text)
