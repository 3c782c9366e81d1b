"""Train every pure-operator model under the recipes of sweep.yaml; appends to results.csv, skips
what stands there.

    nice -n 5 python experiments/pure_operators/run.py [stage ...]
"""

from __future__ import annotations

import csv
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError
from flashnas.base.system import keep_memory, limit_threads
from flashnas.training.recipe import Recipe

HERE = Path(__file__).parent
COLUMNS = (
    "stage",
    "operator",
    "seed",
    "settings",
    "loss",
    "bits_per_byte",
    "curve",
    "tokens",
    "tokens_per_s",
    "seconds",
    "cpu_seconds",
    "proxy_params",
    "reason",
)


def cases(
    sweep: dict[str, Any], wanted: list[str]
) -> list[tuple[str, str, int, str, dict[str, Any], Recipe]]:
    """(stage, operator, seed, notation, what the stage sets, recipe) in the order of the file."""
    base, found = Recipe(**sweep["base"]), []
    for stage, entry in sweep["stages"].items():
        if wanted and stage not in wanted:
            continue
        grid = entry.get("grid", {})
        for values in itertools.product(*grid.values()):
            settings = {**entry.get("recipe", {}), **dict(zip(grid, values, strict=True))}
            for seed, operator in itertools.product(entry["seeds"], entry["operators"]):
                notation = entry.get("architecture", sweep["architecture"]).format(
                    operator=operator
                )
                found.append((stage, operator, seed, notation, settings, replace(base, **settings)))
    return found


def main() -> None:
    limit_threads(1)
    keep_memory()
    from flashnas.data.dataset import prepare_dataset
    from flashnas.training.trainer import train

    sweep = yaml.safe_load((HERE / "sweep.yaml").read_text(encoding="utf-8"))
    results = HERE / "results.csv"
    if not results.exists():
        results.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with results.open(encoding="utf-8", newline="") as file:
        done = {
            (row["stage"], row["operator"], row["seed"], row["settings"])
            for row in csv.DictReader(file)
        }
    for stage, operator, seed, notation, settings, recipe in cases(sweep, sys.argv[1:]):
        text = " ".join(f"{key}={value}" for key, value in settings.items())
        if (stage, operator, str(seed), text) in done:
            continue
        row: dict[str, Any] = {"stage": stage, "operator": operator, "seed": seed, "settings": text}
        dataset = prepare_dataset(sweep["data"], recipe)
        architecture = Architecture.parse(notation)
        started = time.process_time()
        try:
            score = train(recipe.proxy_of(architecture, dataset.vocab), dataset, recipe, seed)
            row |= {
                "loss": f"{score.loss:.4f}",
                "bits_per_byte": f"{score.bits_per_byte:.4f}",
                "curve": " ".join(f"{tokens}:{loss:.4f}" for tokens, loss in score.curve),
                "tokens": score.tokens,
                "tokens_per_s": f"{score.tokens_per_s:.0f}",
                "seconds": f"{score.seconds:.1f}",
                "proxy_params": score.proxy_params,
            }
        except CandidateError as error:
            row["reason"] = str(error)
        row["cpu_seconds"] = f"{time.process_time() - started:.1f}"
        with results.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        print({key: row[key] for key in row if key != "curve"}, flush=True)


if __name__ == "__main__":
    main()
