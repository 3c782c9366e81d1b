"""Are the hybrids of the first search ahead of equally fast stacks of pure Mamba2, by more than the noise of seeds?

    python experiments/first_search/seeds.py [OPERATORS ..]   # five networks, 15 trainings; about ten minutes of a core
"""

import dataclasses
import sys

import flashnas as fn
from flashnas.data.dataset import prepare_dataset
from flashnas.proxy.worker import single_thread

NETWORKS = ("2x(m2 f f) 2x(a m2) m2 f a f a f", "5x(m2 f)", "8x(m2 f)", "9x(m2 f)", "10x(m2 f)")
SEEDS = 3


def main() -> None:
    """Print latency and losses of each."""
    single_thread()
    from flashnas.training.trainer import train

    recipe = fn.Recipe.load("cpu")
    dataset = prepare_dataset("sotu", recipe)
    for operators in sys.argv[1:] or NETWORKS:
        network = fn.Architecture.parse(f"2560(meta=256): {operators}")
        latency_ms = fn.estimate(network, table="h100_sxm", workload="decode-8k").latency_ms
        proxy, own = recipe.proxy_of(network, dataset.vocab), dataclasses.replace(recipe, width_factor=1)
        losses = [train(proxy, dataset, own, seed).loss for seed in range(SEEDS)]
        print(f"{operators:<32} {latency_ms / 1e3:5.2f} s  ", " ".join(f"{loss:.4f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
