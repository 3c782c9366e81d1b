"""Full against window attention: are needles found again in long contexts? (arXiv 2511.18890, figure 9). See README.md.

    python experiments/paper/needles.py           # 4 minutes of one core; what needles.csv has is not repeated
    python experiments/paper/needles.py --draw    # the table and the picture of needles.csv; seconds

A needle is a key and its value among filler. Where the key comes again, the network has to give its value.
"""

import itertools
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from picture import framed, still
from torch import nn

import flashnas as fn
from flashnas.base.process import keep_memory
from flashnas.network.model import HybridLM
from flashnas.proxy.tasks.base import IGNORED, Batch, Task
from flashnas.proxy.tasks.train import WithPrevious
from flashnas.proxy.worker import single_thread
from flashnas.report.palette import MUTED, SERIES
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.trainer import autocast

HERE = Path(__file__).parent
CSV, PNG = HERE / "needles.csv", HERE / "needles.png"
WINDOW = 64
FULL, WINDOWED = "a", f"swa(window={WINDOW})"
ARMS = {"3 full": (FULL, FULL, FULL), "2 full, 1 window": (FULL, FULL, WINDOWED),
        "1 full, 2 windows": (FULL, WINDOWED, WINDOWED), "3 windows": (WINDOWED, WINDOWED, WINDOWED),
        "no attention": ()}
SETTINGS = {"steps": 200, "batch_tokens": 768}
SEEDS, TEST = 1, 128                # sequences of each length to test with
TRAINED = 256                       # tokens of a training sequence
CONTEXTS = (TRAINED, 2 * TRAINED)   # of the tests
EDGES = (0, 64, 128, 256, 512)      # tokens between a needle and its question


@dataclass(frozen=True, kw_only=True)
class Needles(Task):
    """Keys are tokens 0 .. keys - 1, values the next `keys`, the others are filler. Each of the needles comes twice, at
    random places; the answer is at its second key."""

    name = "needles"
    vocab: int = 48
    keys: int = 16
    length: int = TRAINED
    needles: int = 8     # of a test
    learned: int = 16    # of a training sequence: more answers, so that fewer steps are needed

    @property
    def chance(self) -> float:
        return 1 / self.keys

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        needles, rows = self.needles if test else self.learned, np.arange(count)[:, None]
        inputs_BP2 = rng.integers(2 * self.keys, self.vocab, (count, self.length // 2, 2))
        targets_BP2 = np.full_like(inputs_BP2, IGNORED)
        key_BN = rng.random((count, self.keys)).argsort(1)[:, :needles]
        value_BN = rng.integers(self.keys, 2 * self.keys, key_BN.shape)
        places_BP = rng.random((count, self.length // 2)).argsort(1)[:, :2 * needles]
        places_B2N = np.sort(places_BP.reshape(count, 2, needles), axis=1)
        for place_BN in (places_B2N[:, 0], places_B2N[:, 1]):
            inputs_BP2[rows, place_BN] = np.stack([key_BN, value_BN], -1)
        targets_BP2[rows, places_B2N[:, 1], 0] = value_BN
        return Batch(inputs_BP2.reshape(count, -1), targets_BP2.reshape(count, -1))


def network_of(attentions: tuple[str, ...]) -> fn.Architecture:
    """The mixers of the paper's network, three times; each time with one of the attentions."""
    parts = [f"d m2 {attention} f" for attention in attentions] or ["3x(d m2 f)"]
    return fn.Architecture.parse(f"2048: {' '.join(parts)}")


def train(arm: str, seed: int, task: Needles, **settings: float) -> HybridLM:
    """A network that has learned to find needles in sequences of the task."""
    recipe = replace(fn.Recipe.load("cpu"), width_factor=16, tasks=settings).for_tasks(tasks=1, length=task.length)
    torch.manual_seed(seed)
    proxy = recipe.proxy_of(network_of(ARMS[arm]), vocab=task.vocab)
    network = HybridLM(replace(proxy, operators=tuple(
        replace(spec, window=WINDOW) if spec.kind == "swa" else spec for spec in proxy.operators)))
    # as for the tasks of MAD: each vector includes the token before, which attention learns after hundreds of steps
    network.embedding = WithPrevious(task.vocab, proxy.hidden, _weight=network.embedding.weight.detach())
    initialise(network, recipe)
    optimizers = Optimizers(network, recipe)
    batches = task.batches(recipe.batch_sequences, seed, apart_from=task.test_set(TEST, seed))
    for step in range(recipe.steps):
        inputs_BT, targets_BT = map(torch.from_numpy, next(batches))
        with autocast(recipe, torch.device("cpu")):
            loss = network.loss(inputs_BT, targets_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizers.step(step)
    return network.eval()


@torch.no_grad()
def found(network: HybridLM, task: Needles, seed: int) -> pd.DataFrame:
    """Needles that were found, by tokens between them and their questions."""
    inputs_BT, targets_BT = task.test_set(TEST, seed)
    right_BT = np.concatenate([network(torch.from_numpy(part)).argmax(-1).numpy()
                               for part in np.array_split(inputs_BT, TEST // 8)]) == targets_BT
    first_BT = np.array([[np.flatnonzero(row == token)[0] for token in row] for row in inputs_BT])
    asked_BT = targets_BT >= 0
    distance_BT = np.arange(task.length) - first_BT
    bins = pd.cut(distance_BT[asked_BT], EDGES, labels=EDGES[1:]).astype(int)
    right = pd.DataFrame({"distance": bins, "right": right_BT[asked_BT]}).groupby("distance")["right"]
    table = pd.DataFrame({"context": task.length, "questions": right.size(), "accuracy": right.mean().round(4)})
    return table.reset_index()


def train_all() -> None:
    """Train and test what needles.csv does not have, seeds outermost."""
    single_thread()
    keep_memory()
    tables = [pd.read_csv(CSV)] if CSV.exists() else []
    done = {pair for table in tables for pair in table[["attention", "seed"]].itertuples(index=False, name=None)}
    for seed in range(SEEDS):
        for arm in ARMS:
            if (arm, seed) not in done:
                network = train(arm, seed, Needles(), **SETTINGS)
                parts = [found(network, Needles(length=length), seed) for length in CONTEXTS]
                tables.append(pd.concat(parts).assign(attention=arm, seed=seed))
                pd.concat(tables).to_csv(CSV.with_suffix(".new"), index=False)
                os.replace(CSV.with_suffix(".new"), CSV)
                print(tables[-1].to_string(index=False, header=False), flush=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard error over the seeds by arm, context and distance."""
    return rows.groupby(["attention", "context", "distance"])["accuracy"].agg(["mean", "sem"])


def draw(rows: pd.DataFrame) -> None:
    """Accuracy over the distance, by arm, for both lengths."""
    table = summary(rows)
    with still(PNG, (11.0, 4.9), f"Needles found with full attention and with windows of {WINDOW} tokens",
               f"{SEEDS} seed; trained on {TRAINED} tokens; 8 needles in each of {TEST} sequences.") as figure:
        for place, context in enumerate(CONTEXTS):
            axes = framed(figure, (0.07 + 0.5 * place, 0.22, 0.42, 0.57))
            for number, (colour, arm) in enumerate(zip((*SERIES[:4], MUTED), ARMS, strict=True)):
                part = table.loc[arm, context]
                axes.errorbar(np.arange(len(part)) + 0.03 * (number - 2), part["mean"], part["sem"], marker="o",
                              color=colour, label=arm, capsize=2)
            axes.axhline(Needles().chance, color=MUTED, linestyle=":", linewidth=1)
            axes.set_xticks(range(len(part)), [f"{low + 1} to {high}" for low, high in itertools.pairwise(EDGES)
                                               if high <= context])
            axes.set_title(f"context of {context} tokens", fontsize=10)
            axes.set(xlabel="tokens between needle and question", ylabel="needles found, share", ylim=(0, 1.03))
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=5, loc="lower center")


def main() -> None:
    """Train unless --draw is given, print the table and draw it."""
    if "--draw" not in sys.argv:
        train_all()
    rows = pd.read_csv(CSV)
    print(summary(rows).round(3).unstack([1, 2]).to_string())
    draw(rows)


if __name__ == "__main__":
    main()
