"""The trainings behind `flashnas scaling-law`: a grid of depths, widths and token counts for one pattern.

Each token count is a training of its own, whose rate falls to its end. Losses along one training (`curve`)
are not fitted: a point in its middle is worse than a training that ends there. A depth is the number of
blocks, each the operators of the pattern once. A width is before the recipe's width factor, as in a search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, ConfigError, OperatorError, RunError
from flashnas.base.fingerprint import fingerprint
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import ROUNDING, Recipe
from flashnas.training.store import (
    PlannedTraining,
    Progress,
    TrainingRow,
    TrainingStore,
    frame_of,
    train_missing,
)

FILE = "trainings.jsonl"
HEADER = {"flashnas_scaling_law": 1}


@dataclass(frozen=True, kw_only=True)
class GridTraining(TrainingRow):
    """A training of a grid. A table of one's own needs depth, width, tokens and loss. recipe: name and
    digest."""

    pattern: str = ""
    depth: int
    width: float
    tokens: int = field()
    seed: int = 0
    width_factor: float | None = None
    recipe: str = ""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name):g}")

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return self.pattern, self.depth, self.width, self.tokens, self.seed, self.recipe


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to train: every combination of depths, widths and token counts, with each seed from 0 on."""

    pattern: str
    depths: Sequence[int]
    widths: Sequence[int]
    tokens: Sequence[int]
    seeds: int
    recipe: Recipe
    data: str
    tokenizer: str | None = None


def block(pattern: str, depth: int, width: int) -> Architecture:
    """`depth` blocks of a pattern, such as `m2 f`; raises ConfigError if it does not parse or suit the
    width."""
    try:
        return Architecture.parse(f"{width}: {depth}x({pattern})")
    except (ArchitectureError, OperatorError) as error:
        raise ConfigError(f"scaling_law.pattern {pattern!r} at depth {depth} and width {width}: {error}"
                          ) from None


def of_one_kind(table: pd.DataFrame, path: Path, pattern: str | None) -> pd.DataFrame:
    """The trainings of one pattern and recipe.

    Args:
        pattern: the one to take where the table holds several; None: the table must hold one.

    Raises:
        RunError: if there are none of the pattern, or of several patterns or recipes.
    """
    patterns = sorted(set(table["pattern"]))
    if pattern is not None and patterns != [""]:
        table = table[table["pattern"] == _spaced(pattern)]
        if table.empty:
            raise RunError(f"{path}: no training of pattern {pattern!r}; it holds {', '.join(patterns)}")
    elif len(patterns) > 1:
        raise RunError(f"{path}: holds trainings of several patterns, and a law is of one; give one of:"
                       f" {', '.join(map(repr, patterns))}")
    for column in ("recipe", "width_factor"):
        values = sorted(set(table[column].dropna()))
        if len(values) > 1:
            raise RunError(f"{path}: {column} must be the same for all trainings of a law; got"
                           f" {', '.join(map(str, values))}")
    return table


def train_grid(grid: Grid, out: Path, *, workers: int, progress: Progress) -> pd.DataFrame:
    """Train what OUT/trainings.jsonl lacks of a grid; returns the trainings of the grid.

    Raises:
        ConfigError: for a pattern, size or recipe that cannot be trained.
        RunError: if the file is damaged or another process is growing it.
    """
    from flashnas.training.trainer import check_device  # loads torch

    check_device(grid.recipe)
    if grid.recipe.depth_factor > 1:
        raise ConfigError(f"scaling_law.recipe: depth_factor must be 1 for a law over depth; recipe"
                          f" {grid.recipe.name!r} has {grid.recipe.depth_factor}")
    _planned(grid, None)  # sizes are checked before text is read
    dataset = prepare_dataset(grid.data, grid.recipe, grid.tokenizer)
    for tokens in grid.tokens:
        dataset.check_length(dataclasses.replace(grid.recipe, tokens=tokens))
    planned = _planned(grid, dataset)
    timeout_s = TIMEOUT_S * max(1.0, max(grid.tokens) / Recipe.tokens)
    with TrainingStore(out / FILE, HEADER, GridTraining) as store:
        with WorkerPool(run_job, workers=workers, timeout_s=timeout_s) as pool:
            train_missing(planned, store, pool, progress, workers=workers)
        keys = {item.row.key for item in planned}
        return frame_of([row for key, row in store.rows.items() if key in keys], GridTraining)


def _planned(grid: Grid, dataset: Dataset | None) -> list[PlannedTraining[GridTraining]]:
    """The trainings of a grid, the cheap ones first: what is there when it is broken off says most for its
    cost."""
    planned = []
    for depth in grid.depths:
        for width in grid.widths:
            architecture = block(grid.pattern, depth, width)
            try:
                proxy = grid.recipe.proxy_of(architecture)
            except (ArchitectureError, OperatorError) as error:
                raise ConfigError(f"scaling_law.widths: {width} with recipe {grid.recipe.name!r}: {error}"
                                  ) from None
            for tokens in grid.tokens:
                recipe = dataclasses.replace(grid.recipe, tokens=tokens)
                as_trained = {**recipe.to_dict(), **ROUNDING, "tokens": None,
                              "corpus": dataset.digest if dataset else ""}
                for seed in range(grid.seeds):
                    row = GridTraining(
                        pattern=_spaced(grid.pattern), depth=depth, width=width, seed=seed,
                        tokens=recipe.steps * recipe.batch_tokens, width_factor=recipe.width_factor,
                        recipe=f"{recipe.name}-{fingerprint(as_trained)[:8]}")
                    job = Job(architecture=architecture, dataset=str(dataset.folder) if dataset else "",
                              recipe=recipe.to_dict(), seed=seed)
                    planned.append(PlannedTraining(row, architecture.notation, job,
                                                   tokens * (proxy.params - proxy.vocab * proxy.hidden / 2)))
    if len({item.row.key for item in planned}) < len(planned):
        raise ConfigError("scaling_law.tokens: two numbers are the same in whole steps of the recipe; got"
                          f" {', '.join(map(str, grid.tokens))}")
    return sorted(planned, key=lambda item: (item.row.seed, item.cost))


def _spaced(pattern: str) -> str:
    return " ".join(pattern.split())
