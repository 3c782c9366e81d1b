"""Which sampler, where trainings alone rank? The lowest trained loss and the front at equal numbers of
tiny trainings.

    python experiments/samplers/trained.py      # trained.csv, and the table; half an hour of one core

`--evidence none` in the space `tiny` up to 600,000 parameters, 24 trainings of 32,768 tokens,
two seeds. A network has the same loss in all searches of a seed. `acquisition` is the default; the others
train each of their proposals. Runs stand in RUNS, and a run that is there is not repeated.

- loss: the lowest of the first 12 and 24 trainings, above the lowest of all runs of the seed, in millinats;
- front: the hypervolume of (loss, parameters) that is missing of that of all trainings of the seed, in percent.

Expected, written before the first run: the acquisition is first by loss after 12; after 24 all but
random and nsga2 are within 10 millinats of it. By the front no sampler is better than another by twice its
standard error.
"""

from __future__ import annotations

from pathlib import Path

import moocore
import numpy as np
import pandas as pd

import flashnas as fn

OUT, RUNS = Path(__file__).with_suffix(".csv"), Path("experiments/runs/samplers")
SAMPLERS = ("acquisition", "aging-evolution", "nsga2", "tpe", "random")
SEEDS, COUNTS = range(2), (12, 24)
MOST_PARAMS = 600_000
RECIPE = {
    "width_factor": 1,
    "vocab": 512,
    "sequence_tokens": 256,
    "batch_sequences": 1,
    "tokens": 32_768,
    "validation_tokens": 16_384,
    "curve_points": 2,
    "curve_tokens": 4_096,
    "muon_lr": 0.0015,
    "adamw_lr": 0.04,
    "lr_depth": 24,
}


def run_of(sampler: str, seed: int) -> fn.Run:
    out = RUNS / f"{sampler}-{seed}"
    if (out / "report.html").exists():
        return fn.load_run(out)
    return fn.search(
        space="tiny",
        workload="chat",
        budgets={"params": MOST_PARAMS},
        objectives=("loss", "params"),
        evidence="none",
        trials=max(COUNTS),
        sampler=None if sampler == "acquisition" else sampler,
        cycle_size=6,
        seed=seed,
        recipe=fn.Recipe(**RECIPE),
        workers=1,
        out=out,
        resume=True,
    )


def main() -> None:
    parts = []
    for seed in SEEDS:
        for sampler in SAMPLERS:
            trials = run_of(sampler, seed).trials
            trained = trials[(trials.state == "complete") & (trials.origin != "baseline")]
            found = trained[["loss", "params"]].head(max(COUNTS))
            parts.append(found.assign(sampler=sampler, seed=seed, number=range(1, len(found) + 1)))
    table = pd.concat(parts).round(5)
    table.to_csv(OUT, index=False)
    lines = []
    for seed, own in table.groupby("seed"):
        worst = own.loss.max()
        every = moocore.hypervolume(own[["loss", "params"]].to_numpy(), ref=[worst, MOST_PARAMS])
        for sampler, each in own.groupby("sampler", sort=False):
            line: dict[str, object] = {"sampler": sampler, "seed": seed}
            for count in COUNTS:
                first = each[each.number <= count]
                volume = moocore.hypervolume(
                    first[["loss", "params"]].to_numpy(), ref=[worst, MOST_PARAMS]
                )
                line[f"loss {count}"] = 1e3 * (first.loss.min() - own.loss.min())
                line[f"front {count}"] = 100 * (1 - volume / every)
            lines.append(line)
    found = pd.DataFrame(lines).drop(columns="seed").groupby("sampler", sort=False)
    print(found.mean().round(1).to_string())
    print((found.std() / np.sqrt(len(SEEDS))).round(1).to_string())


if __name__ == "__main__":
    main()
