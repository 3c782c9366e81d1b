"""Does longer training rank networks as short training does? Rank correlations of the trainings in
results.csv.

    python experiments/proxy_trust/proxy_trust.py     # the tables of README.md; seconds, trains
    nothing

results.csv: 24 networks of one search, trained short, four times as long and at twice the width.
curves.csv: the validation losses along the short trainings of seed 0.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, spearmanr

HERE = Path(__file__).parent


def spearman(first: pd.Series, second: pd.Series) -> str:
    """Spearman's correlation with a bootstrap interval of 95 %."""
    both = pd.concat([first, second], axis=1).dropna().to_numpy(float)
    sampled = bootstrap(
        both.T,
        lambda x, y: spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        rng=np.random.default_rng(0),
    )
    low, high = sampled.confidence_interval
    return f"{spearmanr(*both.T).statistic:6.3f} [{low:.2f}, {high:.2f}]  n={len(both)}"


def main() -> None:
    """Print the rank correlations, the noise between seeds, and what the best of a short training
    costs.
    """
    table = pd.read_csv(HERE / "results.csv")
    losses = table.groupby(["hash", "variant"])["loss"].mean().unstack()
    facts = table.drop_duplicates("hash").set_index("hash")
    width = facts["notation"].str.extract(r"^(\d+)", expand=False).astype(int)
    guesses = {"parameters": -facts["params"], "width": -width, "latency": -facts["latency_ms"]}
    print("Spearman's correlation (95 % interval)")
    for first, second in itertools.combinations(("short", "long", "wide"), 2):
        print(f"{first:10} : {second:5} {spearman(losses[first], losses[second])}")
    for name, guess in guesses.items():
        print(f"{name:10} : long  {spearman(guess, losses['long'])}")

    print("noise between two seeds of one network, and losses above the best of long training")
    for variant in ("short", "long"):
        seeds = table[table["variant"] == variant].pivot(
            index="hash", columns="seed", values="loss"
        )
        sd = (seeds[0] - seeds[1]).std() / np.sqrt(2)
        print(f"{variant:10} standard deviation {sd:.4f} nats")
    best = losses["long"].min()
    for name, order in {"short": losses["short"], **guesses}.items():
        print(f"{name:10} best by it: {losses['long'][order.idxmin()] - best:.4f} nats")

    print("inside one width: Spearman of short with long training, and of the parameter count")
    for size, same in losses.groupby(width):
        if len(same) >= 5:
            count = same["long"].corr(guesses["parameters"][same.index], method="spearman")
            print(
                f"{size:10} {same['short'].corr(same['long'], method='spearman'):.2f} {count:.2f} "
                f" n={len(same)}"
            )
    print("along the short trainings: Spearman with the long losses")
    for tokens, part in pd.read_csv(HERE / "curves.csv").groupby("tokens"):
        loss = part.set_index("hash")["loss"]
        print(f"{tokens:10,} {loss.corr(losses['long'], method='spearman'):.2f}")


if __name__ == "__main__":
    main()
