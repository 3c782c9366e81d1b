"""Writes networks.csv: what the bench trains before it draws from whole spaces.

    python experiments/bench/networks.py       # seconds

These are the baselines of the first search at the widths that its budget gives them, and random networks of its space
at theirs. A first search takes the scores of both.
"""

import csv
from pathlib import Path

import numpy as np

from flashnas.study.config import SearchConfig
from flashnas.study.prepare import prepare

HERE = Path(__file__).parent
FIRST_SEARCH = HERE.parent / "first_search" / "config.yaml"
DRAWN = 60


def main() -> None:
    question = prepare(SearchConfig.load(FIRST_SEARCH, {"bench": False}), note=print)
    networks = {network.hash: (f"baseline:{question.space.name}", network)
                for _, network in question.baselines if network is not None}
    wanted, rng = len(networks) + DRAWN, np.random.default_rng(0)
    while len(networks) < wanted:
        network, _ = question.fitter.latency_of(question.space.sample(rng))
        if network is not None:
            networks.setdefault(network.hash, (question.space.name, network))
    with (HERE / "networks.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("origin", "architecture"))
        table.writerows((origin, network.notation) for origin, network in networks.values())
    print(f"{len(networks)} networks in {HERE / 'networks.csv'}")


if __name__ == "__main__":
    main()
