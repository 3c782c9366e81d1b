"""Does the best learning rate fall with the depth? Blocks of `m2 f` at width 2048 (64 when shrunk), one training each.

    python experiments/depth_width/rates.py    # five trainings; about three minutes of one core
"""

import dataclasses
from pathlib import Path

import flashnas as fn
from flashnas.data.dataset import prepare_dataset
from flashnas.proxy.worker import single_thread

CASES = {(24, 131_072): (0.00075, 0.0015, 0.003), (3, 262_144): (0.0015, 0.003)}  # blocks, tokens: rates of Muon


def main() -> None:
    """Print the loss of each."""
    single_thread()
    from flashnas.training.trainer import train

    recipe = fn.Recipe.load(Path(__file__).with_name("one_rate.yaml"))
    dataset = prepare_dataset("sotu", recipe)
    for (blocks, tokens), rates in CASES.items():
        proxy = recipe.proxy_of(fn.Architecture.parse(f"2048: {blocks}x(m2 f)"), dataset.vocab)
        for rate in rates:
            own = dataclasses.replace(recipe, width_factor=1, tokens=tokens, muon_lr=rate, curve_points=1)
            print(f"{blocks:>2} blocks, {tokens:,} tokens, rate {rate:g}: {train(proxy, dataset, own, 0).loss:.4f}",
                  flush=True)


if __name__ == "__main__":
    main()
