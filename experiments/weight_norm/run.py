"""Train the arms of plan.yaml, append to results.csv, skip what stands there; then print the paired
differences.

    nice -n 5 python experiments/weight_norm/run.py [arm ...]    # all arms, or those named
    python experiments/weight_norm/run.py --print                # print what results.csv holds
"""

from __future__ import annotations

import csv
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError
from flashnas.base.system import keep_memory, limit_threads
from flashnas.training.recipe import Recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
COLUMNS = (
    "arm",
    "operator",
    "seed",
    "settings",
    "loss",
    "bits_per_byte",
    "curve",
    "tokens",
    "cpu_seconds",
    "proxy_params",
    "reason",
)


def cases(plan: dict[str, Any]) -> list[tuple[str, str, int, str, str, Recipe]]:
    """(arm, operator, seed, settings in words, notation, recipe), seeds outermost."""
    base, found = Recipe(**plan["base"]), []
    seeds = sorted({seed for entry in plan["arms"].values() for seed in entry["seeds"]})
    for seed, operator, (arm, entry) in itertools.product(
        seeds, plan["operators"], plan["arms"].items()
    ):
        if seed in entry["seeds"] and operator in entry.get("operators", plan["operators"]):
            changes, meta = entry.get("recipe", {}), entry.get("meta", 0)
            words = " ".join(
                f"{key}={value}" for key, value in {"tokens": base.tokens, **changes}.items()
            )
            notation = plan["architecture"].format(operator=operator, meta=meta)
            found.append((arm, operator, seed, words, notation, replace(base, **changes)))
    return found


def done() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(wanted: list[str]) -> None:
    limit_threads(1)
    keep_memory()
    from flashnas.data.dataset import prepare_dataset
    from flashnas.training.trainer import train

    plan = yaml.safe_load((HERE / "plan.yaml").read_text(encoding="utf-8"))
    if not RESULTS.exists():
        RESULTS.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    known = {(row["arm"], row["operator"], row["seed"], row["settings"]) for row in done()}
    for arm, operator, seed, words, notation, recipe in cases(plan):
        if (arm, operator, str(seed), words) in known or (wanted and arm not in wanted):
            continue
        row: dict[str, Any] = {"arm": arm, "operator": operator, "seed": seed, "settings": words}
        dataset = prepare_dataset(plan["data"], recipe)
        started = time.process_time()
        try:
            score = train(
                recipe.proxy_of(Architecture.parse(notation), dataset.vocab), dataset, recipe, seed
            )
            row |= {
                "loss": f"{score.loss:.4f}",
                "bits_per_byte": f"{score.bits_per_byte:.4f}",
                "curve": " ".join(f"{tokens}:{loss:.4f}" for tokens, loss in score.curve),
                "tokens": score.tokens,
                "proxy_params": score.proxy_params,
            }
        except CandidateError as error:
            row["reason"] = str(error)
        row["cpu_seconds"] = f"{time.process_time() - started:.1f}"
        with RESULTS.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        print({key: row[key] for key in row if key != "curve"}, flush=True)


def report() -> None:
    """Differences to `plain`, or to what an arm is `against`, of the same operator and seed along
    the curve, with 95 % intervals over pairs."""
    arms = yaml.safe_load((HERE / "plan.yaml").read_text(encoding="utf-8"))["arms"]
    rows = {(row["arm"], row["operator"], row["seed"]): row for row in done() if row["curve"]}
    curves = {
        key: {
            int(tokens): float(loss)
            for tokens, _, loss in (point.partition(":") for point in row["curve"].split())
        }
        for key, row in rows.items()
    }
    for arm, entry in arms.items():
        base = entry.get("against", "plain")
        pairs = [
            (key, (base, *key[1:]))
            for key in curves
            if key[0] == arm != base and (base, *key[1:]) in curves
        ]
        pairs = [pair for pair in pairs if curves[pair[0]].keys() == curves[pair[1]].keys()]
        if not pairs:
            continue
        operators = list(dict.fromkeys(key[1] for key, _ in pairs))
        print(
            f"\n{arm} minus {base}, nats per token: mean over seeds by operator, and all"
            f" {len(pairs)} pairs"
        )
        print(
            f"| tokens | {' | '.join(operators)} | all, 95 % interval"
            f" |\n|---|{'---|' * (len(operators) + 1)}"
        )
        for tokens in sorted(curves[pairs[0][0]]):
            gaps = np.array([curves[one][tokens] - curves[other][tokens] for one, other in pairs])
            cells = [
                f"{gaps[[one[1] == operator for one, _ in pairs]].mean():+.3f}"
                for operator in operators
            ]
            half = (
                f" ± {stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5:.3f}"
                if len(gaps) > 1
                else ""
            )
            print(f"| {tokens:,} | {' | '.join(cells)} | {gaps.mean():+.3f}{half} |")
        ratio = np.mean(
            [
                float(rows[one]["cpu_seconds"]) / float(rows[other]["cpu_seconds"])
                for one, other in pairs
            ]
        )
        print(f"CPU time of a run: {ratio:.2f} times that of plain")
    print("\nfinal loss")
    for key, curve in sorted(curves.items()):
        print(f"{' '.join(key):<24} {list(curve.values())[-1]:.4f}")


if __name__ == "__main__":
    if "--print" not in sys.argv[1:]:
        run(sys.argv[1:])
    report()
