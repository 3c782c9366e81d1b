"""Fit the model of the full loss to the published trainings, and say how well it foretells what it has not seen.

    python experiments/evidence/fit.py            # a minute and a half of one core; writes fitted.json and results.json

Expected: the constants that ship, to their last digit on the same machine, and the table of README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pandas as pd

from flashnas import bench
from flashnas.architecture import Architecture
from flashnas.base.files import write_atomic
from flashnas.evidence.fitting import ffn_rows, fit_response, fit_spreads, joined, rows_of
from flashnas.evidence.full_loss import FITTED, FullLoss
from flashnas.evidence.law import constants, fit_law, read_shapes
from flashnas.evidence.leave_one_out import leave_one_out, shapes_left_out
from flashnas.evidence.load import digests
from flashnas.evidence.trainings import read_published
from flashnas.training.recipe import Recipe
from flashnas.trust.published_study import PublishedPlan, recipe_digest

HERE = Path(__file__).parent
PROXIES = HERE.parent / "proxy_recipe" / "cpu" / "published.csv"
DIGITS = 8


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def short_trainings(trainings, recipe):
    """The short training of each row, seed 0: network and loss, or None."""
    table = pd.read_csv(PROXIES)
    losses = table[(table.seed == 0) & table.loss.notna()].set_index("proxy").loss.to_dict()
    networks = PublishedPlan(rows=trainings, recipe=recipe, data="").networks(recipe.vocab)
    return [(network, losses[network.notation]) if network.notation in losses else None for network in networks]


def fit():
    """The constants, and what they were fitted to."""
    law, recipe, trainings = fit_law(read_shapes()), Recipe.load("cpu"), read_published()
    table = bench.load().groupby("proxy", as_index=False).loss.mean().dropna()
    response = fit_response([Architecture.parse(text) for text in table.proxy], table.loss.to_numpy())
    short = short_trainings(trainings, recipe)
    rows = joined(rows_of(trainings, law, response=response, proxies=short), ffn_rows(law))
    spreads = fit_spreads(rows, law)
    model = FullLoss(rows, spreads, law, response=response)
    folds = {source: fit_spreads(rows.part((rows.table.publication != source).nonzero()[0]), law)
             for source in dict.fromkeys(rows.table.publication)}
    return rounded({
        "digests": digests(), "recipe": recipe_digest(recipe), "law": constants(law), "response": list(response),
        "spreads": dataclasses.asdict(spreads),
        "folds": {source: dataclasses.asdict(found) for source, found in folds.items()},
        "coefficients": {name: dict(zip(("mean", "sd", "between_publications"), values, strict=True))
                         for name, values in model.coefficients().items()},
        "rows": {"x": rows.table.x.tolist(), "shares": rows.table.shares.tolist(), "ffn": rows.table.ffn.tolist(),
                 "publication": list(rows.table.publication), "nats": rows.nats.tolist(), "level": list(rows.level)}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-fit", action="store_true", help="measure the constants that ship")
    if not parser.parse_args().no_fit:
        write_atomic(FITTED, json.dumps(fit(), indent=None, separators=(",", ":")) + "\n")
    found = {"left_out": leave_one_out(), "shapes": shapes_left_out()}
    write_atomic(HERE / "results.json", json.dumps(rounded(found), indent=1) + "\n")
    print(json.dumps(rounded(found), indent=1))
