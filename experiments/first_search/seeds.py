"""What short trainings under three seeds say of stacks of Mamba2 and of hybrids, beside the full
loss to expect.

python experiments/first_search/seeds.py [OPERATORS ..]   # five networks, 15 trainings; about ten
minutes of a core python experiments/first_search/seeds.py --no-train       # the full losses alone,
less that of RECOMMENDED; seconds
"""

import dataclasses
import sys

import flashnas as fn
from flashnas.data.dataset import prepare_dataset
from flashnas.training.candidate import single_thread

NETWORKS = ("2x(m2 f f) 2x(a m2) m2 f a f a f", "5x(m2 f)", "8x(m2 f)", "9x(m2 f)", "10x(m2 f)")
SEEDS = 3
RECOMMENDED = "5x(m2 f) a f 4x(m2 f)"  # by `make search`
TRAIN_TOKENS = 1e11


def main() -> None:
    """Print latency, expected full loss and short losses of each."""
    asked = [text for text in sys.argv[1:] if text != "--no-train"] or NETWORKS
    built = [fn.Architecture.parse(f"2560(meta=256): {text}") for text in (RECOMMENDED, *asked)]
    expected = fn.evidence.full_loss().predict_networks(built, TRAIN_TOKENS)
    for place, network in enumerate(built[1:], 1):
        seconds = fn.estimate(network, table="h100_sxm", calibration="paper").latency_ms / 1e3
        mean, sd = expected.difference(place, 0)
        print(
            f"{asked[place - 1]:<34} {seconds:5.2f} s  full loss {mean:+.3f} +- {sd:.3f}",
            flush=True,
        )
    if "--no-train" in sys.argv:
        return
    single_thread()
    from flashnas.training.trainer import train

    recipe = fn.Recipe.load("cpu")
    dataset = prepare_dataset("sotu", recipe)
    for text, network in zip(asked, built[1:], strict=True):
        proxy, own = (
            recipe.proxy_of(network, dataset.vocab),
            dataclasses.replace(recipe, width_factor=1),
        )
        losses = [train(proxy, dataset, own, seed).loss for seed in range(SEEDS)]
        print(f"{text:<34} short losses", " ".join(f"{loss:.4f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
