"""Full against window attention: are needles found again in long contexts? (arXiv 2511.18890, figure 9). See README.md.

    python experiments/paper/needles.py           # 10 minutes of one core; trainings that needles.csv has are not repeated
    python experiments/paper/needles.py --draw    # the table and the picture of needles.csv; seconds

A needle is a key and its value among filler. Where the key comes again, the network has to give its value.
"""

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
from flashnas.proxy.worker import single_thread
from flashnas.report.palette import MUTED, SERIES
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.trainer import autocast

HERE = Path(__file__).parent
CSV, PNG = HERE / "needles.csv", HERE / "needles.png"
WINDOW = 64
FULL, WINDOWED = "a", f"swa(window={WINDOW})"
ARMS = {"3 full": (FULL, FULL, FULL), "2 full, 1 window": (FULL, FULL, WINDOWED), "1 full, 2 windows": (FULL, WINDOWED, WINDOWED),
        "3 windows": (WINDOWED, WINDOWED, WINDOWED), "no attention": ()}
SEEDS, TEST = 3, 128                # sequences of each length to test with
TRAINED = 256                       # tokens of a training sequence
CONTEXTS = (TRAINED, 2 * TRAINED)   # of the tests
EDGES = (0, 64, 128, 256, 512)      # tokens between a needle and its question


@dataclass(frozen=True, kw_only=True)
class Needles(Task):
    """Keys are tokens 0 .. keys - 1, values the next `keys`, the others are filler. Each of the needles comes twice, at
    random places; the answer is at its second key."""

    name = "needles"
    vocab: int = 96
    keys: int = 32
    length: int = TRAINED
    needles: int = 8     # of a test
    learned: int = 24    # of a training sequence: more answers, so that fewer steps are needed

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
    initialise(network, recipe)
    optimizers, batches = Optimizers(network, recipe), task.batches(recipe.batch_sequences, seed, task.test_set(1, seed))
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
    table = pd.DataFrame({"distance": bins, "right": right_BT[asked_BT]}).groupby("distance")["right"]
    return pd.DataFrame({"context": task.length, "questions": table.size(), "accuracy": table.mean().round(4)}).reset_index()
