"""Is the best hybrid of the first search ahead of pure Mamba2 by more than the noise of seeds?

    python experiments/first_search/seeds.py    # four networks, ten trainings; about five minutes of one core
"""

import dataclasses

import flashnas as fn
from flashnas.data.dataset import prepare_dataset
from flashnas.proxy.worker import single_thread

NETWORKS = {"m2 f f m2 a a 3x(m2)": 3, "5x(m2 f)": 3, "7x(m2 f)": 3, "4x(m2 f)": 1}  # seeds


def main() -> None:
    """Print latency and losses of each."""
    single_thread()
    from flashnas.training.trainer import train

    recipe = fn.Recipe.load("cpu")
    dataset = prepare_dataset("sotu", recipe)
    for operators, seeds in NETWORKS.items():
        network = fn.Architecture.parse(f"2560(meta=256): {operators}")
        latency_ms = fn.estimate(network, table="h100_sxm", workload="decode-8k").latency_ms
        proxy, own = recipe.proxy_of(network, dataset.vocab), dataclasses.replace(recipe, width_factor=1)
        losses = [train(proxy, dataset, own, seed).loss for seed in range(seeds)]
        print(f"{operators:<22} {latency_ms / 1e3:5.2f} s  ", " ".join(f"{loss:.4f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
