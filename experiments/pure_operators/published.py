"""How many pairs of pure operators the short training orders as Nemotron-Flash's table 1 does
(arXiv 2511.18890).

    python experiments/pure_operators/published.py     # reads results.csv; under a second

Compared: wikitext perplexity of 500M-parameter models after 100B tokens, and the loss under the
rates of the former recipe `cpu`, seed 0. A pair is clear if the perplexities differ by more than
0.02 nats (the logarithm of their ratio).
"""

import csv
import itertools
import math
from pathlib import Path

PUBLISHED_PERPLEXITY = {
    "a": 24.44,
    "gla": 25.16,
    "d": 23.87,
    "gd": 23.80,
    "r7": 25.47,
    "m": 24.55,
    "m2": 24.36,
}
CLEAR_NATS = 0.02
CHOSEN = {
    ("again", ""),
    ("more", "lr_multipliers={'m.conv': 0.1} muon_lr=0.00125"),
}  # stage and settings of `cpu`


def main() -> None:
    """Print the share of pairs that are ordered alike, and those that are not."""
    with open(Path(__file__).with_name("results.csv"), newline="") as file:
        loss = {
            row["operator"]: float(row["loss"])
            for row in csv.DictReader(file)
            if (row["stage"], row["settings"]) in CHOSEN and row["seed"] == "0"
        }
    clear, wrong = 0, []
    for one, other in itertools.combinations(PUBLISHED_PERPLEXITY, 2):
        gap = math.log(PUBLISHED_PERPLEXITY[one] / PUBLISHED_PERPLEXITY[other])
        if abs(gap) > CLEAR_NATS:
            clear += 1
            if (gap > 0) != (loss[one] > loss[other]):
                wrong.append(f"{one}-{other}")
    print(f"{clear - len(wrong)} of {clear} clear pairs are ordered alike; not: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
