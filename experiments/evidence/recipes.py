"""What the short loss of each recipe adds to published trainings, and what it costs.

    python experiments/evidence/recipes.py     # seconds; reads the trainings of experiments/proxy_recipe

Over the 55 published rows that all recipes trained: the clear pairs that published trainings order without any short
training, and with that of one recipe; each row by a model that has not seen its publication. The response of a recipe
to size, shape and mix is fitted to the same 55 networks, for all recipes alike. `slope`: that of the published
differences on the short ones, within groups.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from fitting import ffn_rows

from flashnas.architecture import Architecture
from flashnas.evidence.foretold import foretell, summary
from flashnas.evidence.full_loss import FullLoss, Rows, Spreads, response_row
from flashnas.evidence.law import Law
from flashnas.evidence.load import fitted, rows_of
from flashnas.evidence.trainings import read_published
from flashnas.training.store import read_table
from flashnas.trust.published_study import ProxyTraining

PROXIES = Path(__file__).parent.parent / "proxy_recipe"
NAMES = {"cpu": "cpu", "second_seed": "cpu, seed 1", "half_depth": "half the operators",
         "half_second": "half the operators, seed 1"}
LONG = "four times the tokens"


def trainings():
    """Recipe -> {(group, operators): (network, loss)}, and its core-minutes for the 55 rows."""
    found, minutes = {}, {}
    with (PROXIES / "trials.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if line["trial"] in NAMES and line["loss"]:
                name = NAMES[line["trial"]]
                found.setdefault(name, {})[line["group"], line["operators"]] = (
                    Architecture.parse(line["proxy"]), float(line["loss"]))
                minutes[name] = minutes.get(name, 0.0) + float(line["seconds"]) / 60
    table = read_table(PROXIES / "cpu-long" / "published.jsonl", ProxyTraining).query("seed == 0").set_index("proxy")
    by_row = {key: network for key, (network, _) in found["cpu"].items()}
    found[LONG] = {key: (network, float(table.loss[network.notation])) for key, network in by_row.items()
                         if network.notation in table.index}
    minutes[LONG] = float(table.seconds.sum()) / 60
    return found, minutes


def main() -> None:
    rows, constants = read_published(), fitted()
    law, ffn = Law(**constants["law"]), ffn_rows(Law(**constants["law"]))
    found, minutes = trainings()
    some = [row for row in rows if (row.group, row.operators) in found["cpu"]]
    none = summary(some, foretell(some, ("law", "mix")))
    print(f"{'recipe':<26} core-minutes  right of {none['pairs']}  rmse_nats  log score  slope")
    print(f"{'none':<26} {0:>12}  {none['right']:>12}  {none['rmse_nats']:>9.4f}  {none['log_score']:>9.3f}")
    for name, short in found.items():
        networks = [short[row.group, row.operators] for row in some]
        x = np.array([response_row(network) for network, _ in networks])
        response = np.linalg.lstsq(x, np.array([loss for _, loss in networks]), rcond=None)[0]
        known = [short.get((row.group, row.operators)) for row in rows]

        def without(source, response=response, known=known):
            learnt = Rows.joined(rows_of(rows, law, response=response, short=known), ffn)
            learnt = learnt.part(np.flatnonzero(learnt.table.publication != source))
            return FullLoss(learnt, Spreads(**constants["folds"][source]), law, response=tuple(response))

        told = summary(some, foretell(some, short=networks, model_without=without))
        print(f"{name:<26} {minutes[name]:>12.0f}  {told['right']:>12}  {told['rmse_nats']:>9.4f}"
              f"  {told['log_score']:>9.3f}  {slope(some, networks):>5.2f}", flush=True)


def slope(rows, networks):
    """Of the published losses on the short ones, both less the mean of their group."""
    short, full = (pd.Series(values, dtype=float) for values in ([loss for _, loss in networks],
                                                                 [row.nats for row in rows]))
    groups = [row.group for row in rows]
    short, full = (values - values.groupby(groups).transform("mean") for values in (short, full))
    return float((short * full).sum() / (short**2).sum())


if __name__ == "__main__":
    main()
