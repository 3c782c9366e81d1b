"""Which sampler? The best value and the front of scored searches at equal numbers of proposals.

    OMP_NUM_THREADS=1 python experiments/samplers/samplers.py      # samplers.csv, and the table

Published trainings score, and nothing is trained: spaces `nemotron_flash` within 12 s and `layerwise`
within 20 s of `decode-8k` on `h100_sxm`. A sampler proposes so many genotypes, of which each width
within the budget is a trial; it is not stopped where nothing better comes. `tpe` serves up to 500, and
`bayes` chooses what is trained, so that it has no part in this. A search that is in the file is not repeated.

- value: the lowest one, above the lowest of all searches of the space, in millinats per token;
- front: the hypervolume of (value, latency) that is missing, in percent of that of all searches.

Expected, written before the first run: aging-evolution is best by value from 2,000 proposals on, within
1 millinat of the lowest; nsga2 is best by the front; random is 10 millinats behind at 8,000; at 500 tpe
is no better than aging-evolution; exhaustive cannot list either space.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import moocore
import numpy as np
import pandas as pd

from flashnas.api.search import SearchOptions
from flashnas.samplers import SAMPLERS
from flashnas.study import loop
from flashnas.study.load import load_problem

OUT = Path(__file__).with_suffix(".csv")
SPACES = {"nemotron_flash": 12_000, "layerwise": 20_000}  # ms
SEEDS = range(3)
PROPOSALS = {
    "random": (500, 2_000, 8_000),
    "aging-evolution": (500, 2_000, 8_000),
    "nsga2": (500, 2_000, 8_000),
    "tpe": (500,),
}
WORST = 3.2  # nats, up to which the front counts


def searched(space: str, sampler: str, proposals: int, seed: int) -> dict[str, object]:
    """One search."""
    options = SearchOptions.build(
        space=space, budget_ms=SPACES[space], seed=seed, workload="decode-8k"
    )
    problem = dataclasses.replace(
        load_problem(options), sampler=SAMPLERS[sampler], proposals=proposals
    )
    started = time.process_time()
    trials = loop.search(problem)
    front = np.column_stack([trials.columns["value"], trials.latency_ms])[trials.front]
    return {
        "space": space,
        "sampler": sampler,
        "proposals": proposals,
        "seed": seed,
        "proposed": len(trials.proposed),
        "trials": len(trials),
        "value": round(float(trials.columns["value"].min()), 6),
        "front": round(moocore.hypervolume(front, ref=[WORST, SPACES[space]]), 3),
        "seconds": round(time.process_time() - started, 1),
    }


def table(found: pd.DataFrame) -> pd.DataFrame:
    best = found.groupby("space")
    found["above"] = 1e3 * (found.value - best.value.transform("min"))
    found["missing"] = 100 * (1 - found.front / best.front.transform("max"))
    by = ["space", "proposals", "sampler"]
    return found.groupby(by, sort=False)[["above", "missing", "trials", "seconds"]].mean()


def main() -> None:
    loop.QUIET_CYCLES = loop.QUIET_WHEN_SPARSE = 10**9
    rows = pd.read_csv(OUT).to_dict("records") if OUT.exists() else []
    done = {(row["space"], row["sampler"], row["proposals"], row["seed"]) for row in rows}
    for space in SPACES:
        for sampler, counts in PROPOSALS.items():
            for proposals in counts:
                for seed in SEEDS:
                    if (space, sampler, proposals, seed) not in done:
                        rows.append(searched(space, sampler, proposals, seed))
                        pd.DataFrame(rows).to_csv(OUT, index=False)
                        print(rows[-1], flush=True)
    print(table(pd.DataFrame(rows)).round(2).to_string())


if __name__ == "__main__":
    main()
