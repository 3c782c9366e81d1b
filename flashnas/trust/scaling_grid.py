"""The trainings behind `flashnas scaling-law`: a grid of depths, widths and token counts for one pattern.

Each token count is a training of its own, whose rate falls to its end. Losses along one training are kept in the column
`curve` and are not fitted: there the rate has not fallen yet, so that a point in the middle is worse than a training
that ends there.

A depth is the number of blocks, each the operators of the pattern once. A width is the hidden size before the recipe's
width factor, as in a search. Every finished training is in OUT/trainings.csv at once; what is there is not trained
again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, ConfigError, OperatorError, RunError
from flashnas.base.files import hold_lock
from flashnas.base.hints import did_you_mean, shown
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.runs.identity import fingerprint
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import Recipe
from flashnas.trust.scaling_law import Points
from flashnas.trust.table import TrustTable, read_texts

FILE = "trainings.csv"
NEEDED = ("depth", "width", "tokens", "loss")
COLUMNS = ("pattern", "depth", "width", "tokens", "seed", "loss", "bits_per_byte", "tokens_per_s", "seconds",
           "proxy_params", "width_factor", "recipe", "curve", "reason")
KEY = ["pattern", "depth", "width", "tokens", "seed", "recipe"]
TEXTS = ("pattern", "recipe", "curve", "reason")
WHOLE = ("depth", "tokens", "seed")
ABOVE_0 = ("depth", "width", "tokens")
Progress = Callable[[int, int, float], None]  # trainings done, all, seconds left


def block(pattern: str, depth: int, width: int) -> Architecture:
    """`depth` blocks of a pattern, such as `m2 f`; raises ConfigError if it does not parse or suit the width."""
    try:
        return Architecture.parse(f"{width}: {depth}x({pattern})")
    except (ArchitectureError, OperatorError) as error:
        raise ConfigError(f"scaling_law.pattern {shown(pattern)} at depth {depth} and width {width}: {error}"
                          ) from None


# -- the table ---------------------------------------------------------------------------------------------------


def read_trainings(path: Path) -> pd.DataFrame:
    """One row per training, with all COLUMNS; a training that failed has no loss.

    A CSV, or a parquet file if its name ends so. `depth`, `width`, `tokens` and `loss` must be there; the other columns
    may be missing. Raises RunError with file, line and rule.
    """
    table = _parquet(path) if path.suffix == ".parquet" else read_texts(path)
    for column in table.columns:
        if column not in COLUMNS:
            raise RunError(f"{path}: column {str(column)!r} is unknown{did_you_mean(str(column), COLUMNS)};"
                           f" known: {', '.join(COLUMNS)}")
    for column in NEEDED:
        if column not in table.columns:
            raise RunError(f"{path}: column {column!r} is missing; it needs {', '.join(NEEDED)}")
    for column in COLUMNS:
        if column not in table.columns:
            table[column] = "" if column in TEXTS else "0" if column == "seed" else None
        if column in TEXTS:
            continue
        texts = table[column].replace("", None)
        numbers = pd.to_numeric(texts, errors="coerce").astype(float)
        needed = column in (*ABOVE_0, "seed")
        _refuse(path, table, column, (numbers.isna() & (texts.notna() | needed)) | np.isinf(numbers),
                "a number" if needed else "a number or empty")
        if column in ABOVE_0:
            _refuse(path, table, column, ~(numbers > 0), "above 0")
        if column in WHOLE:
            _refuse(path, table, column, numbers % 1 != 0, "a whole number")
        table[column] = numbers.astype("int64") if column in WHOLE else numbers
    _refuse(path, table, "seed", table.duplicated(KEY), "another one: this training stands above already")
    return table[list(COLUMNS)]


def _parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises its own errors, OSError and ValueError by kind of damage
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path}: cannot be read as parquet: {line}") from None
    for column in TEXTS:
        if column in table.columns:
            table[column] = table[column].fillna("").astype(str)
    return table


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, rule: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise RunError(f"{path}:{row + 2}: {column} must be {rule}; got {table[column].iloc[row]!r}")


def of_one_kind(table: pd.DataFrame, path: Path, pattern: str | None) -> pd.DataFrame:
    """The trainings of one pattern and recipe.

    Args:
        table: from `read_trainings`.
        path: its file, for messages.
        pattern: the pattern to take where the table holds several; None: the table must hold one.

    Raises:
        RunError: if there are none of the pattern, or of several patterns or recipes.
    """
    patterns = sorted(set(table["pattern"]))
    if pattern is not None and patterns != [""]:
        table = table[table["pattern"] == _spaced(pattern)]
        if table.empty:
            raise RunError(f"{path}: no training of pattern {shown(pattern)}; it holds {', '.join(patterns)}")
    elif len(patterns) > 1:
        raise RunError(f"{path}: holds trainings of several patterns, and a law is of one; give one of:"
                       f" {', '.join(map(repr, patterns))}")
    for column in ("recipe", "width_factor"):
        found = sorted(set(table[column].dropna()))
        if len(found) > 1:
            raise RunError(f"{path}: {column} must be the same for all trainings of a law; got"
                           f" {', '.join(map(str, found))}")
    return table


def points_of(table: pd.DataFrame) -> Points:
    """The trainings that have a loss."""
    trained = table[table["loss"].notna()]
    return Points(*(trained[name].to_numpy(float) for name in NEEDED))


# -- training ----------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Training:
    key: tuple[Any, ...]
    architecture: Architecture
    recipe: Recipe
    seed: int
    work: float  # that the time is taken to grow with: tokens times parameters besides the embedding

    def row(self, score: dict[str, Any] | None, reason: str) -> dict[str, Any]:
        figures = {name: score[name] for name in ("loss", "bits_per_byte", "tokens_per_s", "seconds", "proxy_params")
                   } if score else {}
        curve = json.dumps(score["curve"]) if score else ""
        return {**dict(zip(KEY, self.key, strict=True)), **figures, "curve": curve,
                "width_factor": self.recipe.width_factor, "reason": reason}


def train_grid(grid: Grid, out: Path, *, workers: int, progress: Progress) -> pd.DataFrame:
    """Train what OUT/trainings.csv lacks of a grid; returns the trainings of the grid.

    Raises:
        ConfigError: for a pattern, size or recipe that cannot be trained.
        RunError: if the table is damaged or another process is growing it.
    """
    from flashnas.training.trainer import check_device  # loads torch

    check_device(grid.recipe)
    if grid.recipe.depth_factor > 1:
        raise ConfigError(f"scaling_law.recipe: depth_factor must be 1 for a law over depth; recipe"
                          f" {grid.recipe.name!r} has {grid.recipe.depth_factor}")
    _wanted(grid, "")  # sizes are checked before text is read
    dataset = prepare_dataset(grid.data, grid.recipe, grid.tokenizer)
    wanted = _wanted(grid, dataset.digest)
    for training in wanted:
        dataset.check_length(training.recipe)
    out.mkdir(parents=True, exist_ok=True)
    with hold_lock(out / f".{FILE}.lock", RunError(f"{out}: another scaling-law is training into this folder")):
        table = TrustTable(out / FILE, COLUMNS, read_trainings)
        known = set(_keys(read_trainings(out / FILE)))
        missing = [training for training in wanted if training.key not in known]
        _train(missing, len(wanted), table, dataset, workers, progress)
    found = read_trainings(out / FILE)
    asked = {training.key for training in wanted}
    return found[[key in asked for key in _keys(found)]].reset_index(drop=True)


def _keys(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [(pattern, int(depth), int(width), int(tokens), int(seed), recipe)
            for pattern, depth, width, tokens, seed, recipe in table[KEY].itertuples(index=False)]


def _wanted(grid: Grid, digest: str) -> list[_Training]:
    """The trainings of a grid, the cheap ones first: what is there when it is broken off says most for its cost."""
    found = []
    for depth in grid.depths:
        for width in grid.widths:
            architecture = block(grid.pattern, depth, width)
            try:
                proxy = grid.recipe.proxy_of(architecture)
            except (ArchitectureError, OperatorError) as error:
                raise ConfigError(f"scaling_law.widths: {width} with recipe {grid.recipe.name!r}: {error}") from None
            for tokens in grid.tokens:
                recipe = dataclasses.replace(grid.recipe, tokens=tokens)
                as_trained = {**recipe.to_dict(), "tokens": None, "corpus": digest}
                name = f"{recipe.name}-{fingerprint(as_trained)[:8]}"
                work = float(tokens) * (proxy.params - proxy.vocab * proxy.hidden / 2)
                found += [_Training((_spaced(grid.pattern), depth, width, recipe.steps * recipe.batch_tokens, seed,
                                     name), architecture, recipe, seed, work) for seed in range(grid.seeds)]
    if len({training.key for training in found}) < len(found):
        raise ConfigError("scaling_law.tokens: two numbers are the same in whole steps of the recipe; got"
                          f" {', '.join(map(str, grid.tokens))}")
    return sorted(found, key=lambda training: (training.seed, training.work))


def _spaced(pattern: str) -> str:
    """A pattern with single spaces, so that it is found again."""
    return " ".join(pattern.split())


def _train(missing: Sequence[_Training], total: int, table: TrustTable, dataset: Dataset, workers: int,
           progress: Progress) -> None:
    jobs = {str(number): Job(architecture=training.architecture, dataset=str(dataset.folder),
                             recipe=training.recipe.to_dict(), seed=training.seed)
            for number, training in enumerate(missing)}
    left = dict(enumerate(missing))
    seconds = work = 0.0

    def remaining_s() -> float:
        pace = seconds / work if work else 0.0
        return pace * sum(training.work for training in left.values()) / max(1, min(workers, len(left)))

    longest = max((training.recipe.tokens for training in missing), default=0)
    timeout_s = TIMEOUT_S * max(1.0, longest / Recipe.tokens)
    with WorkerPool(run_job, workers=workers, timeout_s=timeout_s) as pool:
        for key, ended in pool.run(jobs, on_wait=lambda: progress(total - len(left), total, remaining_s())):
            training = left.pop(int(key))
            table.add(training.row(score := ended.result, ended.reason))
            if score:
                seconds, work = seconds + score["seconds"], work + training.work
    progress(total, total, 0.0)
