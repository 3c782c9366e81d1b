"""How well the proxy of each published row learns to recall: the score that `search --objectives ..,recall` uses.

    nice python experiments/proxy_recipe/tasks.py [--recipe cpu]     # about half a minute a network, one thread

`tasks.csv` grows by one line for each network that is not in it. `fitted.py` and `levers.py` read it.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

from flashnas.evidence.proxies import full_network, proxies
from flashnas.evidence.trainings import read_published
from flashnas.proxy.tasks import SCORES
from flashnas.proxy.tasks.train import task_scores
from flashnas.proxy.worker import single_thread
from flashnas.training.recipe import Recipe

OUT = Path(__file__).with_name("tasks.csv")
COLUMNS = ("group", "operators", "proxy", "seed", "recall", *SCORES["recall"], "seconds")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cpu")
    recipe = Recipe.load(parser.parse_args().recipe)
    single_thread()
    if not OUT.exists():
        OUT.write_text(",".join(COLUMNS) + "\n")
    with OUT.open(newline="") as file:
        lines = list(csv.DictReader(file))
    done = {(line["group"], line["operators"]) for line in lines}
    by_proxy = {line["proxy"]: line for line in lines}
    rows = read_published()
    networks = proxies(rows, width=64, width_factor=recipe.width_factor, vocab=recipe.vocab,
                       least_head_dim=recipe.least_head_dim)
    for row, network in zip(rows, networks, strict=True):
        if (row.group, row.operators) in done:
            continue
        entry = by_proxy.get(network.notation)
        if entry is None:
            started = time.perf_counter()
            scores = task_scores(full_network(row, network.hidden * recipe.width_factor), ["recall"], recipe, seed=0)
            entry = {"proxy": network.notation, "seed": "0", **{name: f"{value:.4f}" for name, value in scores.items()},
                     "seconds": f"{time.perf_counter() - started:.1f}"}
        by_proxy[network.notation] = entry = {**entry, "group": row.group, "operators": row.operators}
        with OUT.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(entry)
        print(row.group, row.operators[:40], entry["recall"], entry["seconds"], flush=True)


if __name__ == "__main__":
    main()
