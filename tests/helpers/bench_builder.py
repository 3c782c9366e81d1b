"""A synthetic bench: networks of a space with made-up losses under a given recipe, written as a real one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flashnas.bench.build import build
from flashnas.bench.journal import Header, Training
from flashnas.bench.plan import Given, Planned
from flashnas.bench.table import Bench
from flashnas.space import load_space
from flashnas.training.recipe import Recipe


def made_up_trainings(recipe: Recipe, *, vocab: int, count: int = 20, space: str = "tiny", seed: int = 0,
                      ) -> list[Training]:
    """The trainings of `count` different networks of a space, some at each width; deeper ones have lower losses."""
    found, rng = load_space(space), np.random.default_rng(0)
    trainings: dict[tuple[str, int], Training] = {}
    while len(trainings) < count:
        hidden = found.hidden_sizes[-1 - len(trainings) % len(found.hidden_sizes)]
        network = found.architecture(found.sample(rng), hidden)
        item = Planned(Given(space, network), recipe, vocab, seed)
        loss = 4.0 - 0.1 * len(network.operators) - hidden / 1000 + 0.001 * len(trainings)
        trainings.setdefault(item.key, Training.planned(item).ended(
            score(recipe, loss, item.proxy.params), ""))
    return list(trainings.values())


def score(recipe: Recipe, loss: float, proxy_params: int) -> dict[str, Any]:
    tokens = recipe.steps * recipe.batch_tokens
    return {"loss": loss, "bits_per_byte": loss / 2.5, "curve": [[tokens // 2, loss + 0.5], [tokens, loss]],
            "tokens": tokens, "tokens_per_s": 1000.0, "seconds": 77.0, "proxy_params": proxy_params,
            "backends": {"a": "torch"}, "late_loss": loss - 0.1}


def header(recipe: Recipe, *, dataset: str = "0" * 24, vocab: int = 300, source: str = "sotu") -> Header:
    return Header(recipe=recipe, source=source, dataset=dataset, vocab=vocab, made_by={"flashnas": "0.1.0"})


def write_bench(folder: Path, recipe: Recipe, *, dataset: str = "0" * 24, vocab: int = 300, count: int = 20,
                space: str = "tiny", seed: int = 0) -> Bench:
    trainings = made_up_trainings(recipe, vocab=vocab, count=count, space=space, seed=seed)
    return build(header(recipe, dataset=dataset, vocab=vocab), trainings, folder, tables=())
