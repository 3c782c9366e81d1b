"""The short training of each network, as a search would do it: recipe `cpu` on `sotu`, at its own
size.

    python experiments/full_training/short.py    # short.csv; continues; about seven minutes of one core
"""

import csv
import dataclasses
import json
import os
from pathlib import Path

import flashnas as fn
from flashnas.base.process import limit_threads
from flashnas.data.dataset import prepare_dataset

HERE = Path(__file__).parent
DATA, SEED = "sotu", 0
COLUMNS = ("notation", "tokens", "seed", "loss", "bits_per_byte", "curve", "seconds")


def main() -> None:
    """Train those that short.csv lacks."""
    os.nice(19)
    limit_threads(1)
    from flashnas.training.trainer import train

    recipe = dataclasses.replace(fn.Recipe.load("cpu"), width_factor=1)
    dataset, out = prepare_dataset(DATA, recipe), HERE / "short.csv"
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with out.open(newline="") as file:
        done = {row["notation"] for row in csv.DictReader(file)}
    with (HERE / "networks.csv").open(newline="") as file:
        notations = [row["notation"] for row in csv.DictReader(file)]
    for notation in notations:
        if notation not in done:
            score = train(fn.Architecture.parse(notation), dataset, recipe, SEED)
            with out.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(
                    (
                        notation,
                        score.tokens,
                        SEED,
                        f"{score.loss:.6f}",
                        f"{score.bits_per_byte:.6f}",
                        json.dumps([[tokens, round(loss, 6)] for tokens, loss in score.curve]),
                        f"{score.seconds:.1f}",
                    )
                )
            print(f"{score.loss:.4f}  {score.seconds:5.1f} s  {notation}", flush=True)


if __name__ == "__main__":
    main()
