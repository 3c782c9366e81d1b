"""Every pure operator on the six MAD tasks, recall also by more or fewer steps and rates; results.csv is kept."""

from __future__ import annotations

import csv
import dataclasses
import time
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.process import keep_memory
from flashnas.proxy.tasks import groups_for, make_task
from flashnas.proxy.tasks.train import score_tasks
from flashnas.proxy.worker import single_thread
from flashnas.training.recipe import Recipe

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ["operators", "steps", "muon_lr", "task", "accuracy", "chance", "cpu_seconds"]
OPERATORS = ("a", "swa", "m", "m2", "gla", "d", "gd", "r7", "kda", "h")
TWO_BLOCKS = "2048: 2x({} f)"    # width 128 in training, as in MAD
STEPS = (100, 300)               # besides the recipe's 200
RATES = (0.0025, 0.02)           # besides the recipe's 0.01


def plan():
    """(notation, steps, Muon's rate, tasks trained together), the most wanted first."""
    chosen, groups = Recipe().task_training, groups_for(["mad"])
    for group in groups:
        yield from ((TWO_BLOCKS.format(kind), chosen.steps, chosen.muon_lr, group) for kind in OPERATORS)
    for steps in STEPS:
        yield from ((TWO_BLOCKS.format(kind), steps, chosen.muon_lr, groups[0]) for kind in OPERATORS)
    for rate in RATES:
        yield from ((TWO_BLOCKS.format(kind), chosen.steps, rate, groups[0]) for kind in OPERATORS)


def main() -> None:
    single_thread()
    keep_memory()
    known = set()
    if RESULTS.exists():
        known = {(row["operators"], int(row["steps"]), float(row["muon_lr"]), row["task"])
                 for row in csv.DictReader(RESULTS.open())}
    else:
        RESULTS.write_text(",".join(COLUMNS) + "\n")
    for notation, steps, rate, group in plan():
        if all((notation, steps, rate, name) in known for name in group):
            continue
        recipe = dataclasses.replace(Recipe.load("cpu"), tasks={"steps": steps, "muon_lr": rate})
        tasks, started = [make_task(name) for name in group], time.process_time()
        accuracies = score_tasks(Architecture.parse(notation), tasks, recipe, seed=0)
        spent = time.process_time() - started
        with RESULTS.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [notation, steps, rate, task.name, round(accuracies[task.name], 3), round(task.chance, 3),
                 round(spent, 1)] for task in tasks)
        print(notation, steps, rate, {name: round(value, 3) for name, value in accuracies.items()}, f"{spent:.1f} s",
              flush=True)


if __name__ == "__main__":
    main()
