"""Does the loss extrapolated from a curve (flashnas search --rank-at-tokens) order networks better than the loss?

    python experiments/depth_width/rank.py [TRAININGS.csv]    # seconds, trains nothing

First on the 24 networks of experiments/proxy_trust, against trainings of four times the length. Then on the trainings
of `flashnas scaling-law`, against those with the most tokens, and against what is published of depth: at equal
parameters, deeper is better (arXiv 2402.14905 figure 4; arXiv 2511.18890 section 2.1).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.proxy.extrapolation import extrapolate
from flashnas.evidence.rank_correlation import interval, spearman
from flashnas.trust.scaling_grid import read_trainings

HERE = Path(__file__).parent
LONG, SHORT = 327_680, 81_920
EQUAL = 1.2    # parameters of two networks, besides the embedding, at most this far apart
APART_NATS = 0.02


def words(x: np.ndarray, y: np.ndarray) -> str:
    found = interval([x, y], spearman)
    return f"Spearman {found.value:.3f} [{found.low:.2f}, {found.high:.2f}]"


def on_proxy_trust() -> None:
    results = pd.read_csv(HERE.parent / "proxy_trust" / "results.csv")
    curves = pd.read_csv(HERE.parent / "proxy_trust" / "curves.csv").sort_values("tokens")
    long = results[results["variant"] == "long"].groupby("hash")["loss"].mean()
    curve = {key: part[["tokens", "loss"]].to_numpy().tolist() for key, part in curves.groupby("hash")}
    keys = [key for key in long.index if key in curve]
    truth = long[keys].to_numpy()
    raw = np.array([curve[key][-1][1] for key in keys])
    found = [extrapolate(curve[key], LONG) for key in keys]
    mean = np.array([one.loss for one in found])
    shorter = pd.read_csv(HERE / "shorter.csv").pivot_table(index="hash", columns="tokens", values="loss")
    half = np.array([extrapolate([[SHORT // 2, shorter.loc[key, SHORT // 2]], curve[key][-1]], LONG).loss
                     for key in keys])
    print(f"{len(keys)} networks, {SHORT:,} tokens against {LONG:,}")
    print(f"  loss of the short training                {words(raw, truth)}, off by {np.std(raw - truth):.4f} nats"
          " besides what all share")
    print(f"  extrapolated from its curve               {words(mean, truth)}, off by {np.std(mean - truth):.4f};"
          f" {np.mean(mean - truth):+.3f} in the mean (stated: {np.mean([one.sd for one in found]):.3f})")
    print(f"  from it and a training of half its length {words(half, truth)}, off by {np.std(half - truth):.4f}")


def on_grid(path: Path) -> None:
    table = read_trainings(path)
    table = table[table["loss"].notna()].groupby(["depth", "width", "tokens"], as_index=False).agg(
        loss=("loss", "mean"), curve=("curve", "first"), params=("proxy_params", "first"))
    most = int(table["tokens"].max())
    truth = table[table["tokens"] == most].set_index(["depth", "width"])["loss"]
    print(f"\n{path}: {len(truth)} sizes, extrapolated to {most:,} tokens")
    for tokens, part in table.groupby("tokens"):
        part = part.set_index(["depth", "width"])
        curves = [json.loads(curve) for curve in part["curve"]]
        ahead = [extrapolate(curve, most).loss if tokens < most else curve[-1][1] for curve in curves]
        for name, values in (("loss", part["loss"]), ("extrapolated", pd.Series(ahead, part.index))):
            if name == "extrapolated" and tokens == most:
                continue
            order = f"  {tokens:>9,} tokens, {name:<13}"
            deeper = deeper_is_better(values)
            share = f"deeper is better in {sum(deeper)} of {len(deeper)} pairs of equal size"
            if tokens < most:
                right = clear_pairs(values, truth[part.index])
                share = f"{words(values.to_numpy(), truth[part.index].to_numpy())}, {right} pairs right; {share}"
            print(f"{order} {share}")


def deeper_is_better(loss: pd.Series) -> list[bool]:
    """For each pair of sizes with about equal depth x width^2 and other depths: whether the deeper one is ahead."""
    sizes = list(loss.index)
    return [loss[deep] < loss[flat] for flat in sizes for deep in sizes if deep[0] > flat[0]
            and 1 / EQUAL < deep[0] * deep[1] ** 2 / (flat[0] * flat[1] ** 2) < EQUAL]


def clear_pairs(loss: pd.Series, truth: pd.Series) -> str:
    """Of the pairs that the longest training tells apart, those ordered alike."""
    x, y = (np.subtract.outer(values.to_numpy(), values.to_numpy())[np.triu_indices(len(values), 1)]
            for values in (loss, truth))
    clear = np.abs(y) > APART_NATS
    return f"{int((np.sign(x) == np.sign(y))[clear].sum())} of {int(clear.sum())}"


if __name__ == "__main__":
    on_proxy_trust()
    grid = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "trainings.csv"
    if grid.exists():
        on_grid(grid)
