"""The study behind `flashnas proxy-trust`: how far the order of a finished run holds.

Architectures of the front come first, then others spread over the ranking. Each is trained short under
further seeds and long under all of them. The run's own seed chose the front; its short losses there are
therefore a little too good. Those of further seeds are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.pareto import non_dominated
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import Recipe
from flashnas.training.store import (
    PlannedTraining,
    Progress,
    TrainingRow,
    TrainingStore,
    frame_of,
    read_table,
    train_missing,
)
from flashnas.trust.analysis import MIN_RANKED, Trust, analyse

FILE = "proxy_trust.jsonl"
HEADER = {"flashnas_proxy_trust": 1}


@dataclass(frozen=True, kw_only=True)
class RankedTraining(TrainingRow):
    """A training of an architecture of a run. set: `front` or `spread`. variant: `short` is what a search
    does, `long` has more tokens, `wide` a smaller width factor."""

    set: str
    notation: str
    hash: str
    params: float | None = None
    latency_ms: float | None = None
    variant: Literal["short", "long", "wide"]
    width_factor: int
    tokens: int = field()
    seed: int

    def __post_init__(self) -> None:
        if not self.hash:
            raise ValueError("hash must not be empty")

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return self.hash, self.variant, self.width_factor, self.tokens, self.seed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train. longer: tokens of a long training over those of the run. wider: of a further variant, or
    None."""

    architectures: int = 24
    seeds: int = 2
    longer: int = 4
    wider: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("architectures", MIN_RANKED), ("seeds", 1), ("longer", 2), ("wider", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name} must be at least {least}; got {value}")

    def recipes(self, recipe: Recipe) -> dict[str, Recipe]:
        """The recipe of each variant."""
        recipes = {"short": recipe, "long": dataclasses.replace(recipe, tokens=recipe.tokens * self.longer)}
        if self.wider is not None:
            if recipe.width_factor % self.wider:
                raise ConfigError(f"--wider must divide the run's width factor of {recipe.width_factor};"
                                  f" got {self.wider}")
            recipes["wide"] = dataclasses.replace(recipe, width_factor=recipe.width_factor // self.wider)
        return recipes


def study(run: RecordedRun, plan: Plan, *, workers: int, progress: Progress) -> tuple[pd.DataFrame, Trust]:
    """Train what is missing, then analyse; returns the trainings that the plan asks for and what they say.

    Raises RunError for a run that is not finished, holds too few architectures or is being studied already.
    """
    recipe, dataset = _recipe_and_text(run)
    front = [entry.hash for entry in run.front]
    recipes = plan.recipes(recipe)
    dataset.check_length(recipes["long"])
    planned = _trainings(run, plan, recipes, front, dataset)
    timeout_s = TIMEOUT_S * max(plan.longer, (plan.wider or 1) ** 2)
    with TrainingStore(run.path / FILE, HEADER, RankedTraining) as store:
        scores = {(trial.hash, int(trial.seed)): trial for trial in rows(run.trained)}
        for row in (item.row for item in planned):
            trial = scores.get((row.hash, row.seed))
            # the run trained it already
            if trial is not None and row.variant == "short" and not store.has(row.key):
                store.add(dataclasses.replace(
                    row, loss=trial.loss, bits_per_byte=trial.bits_per_byte, tokens_per_s=trial.tokens_per_s,
                    seconds=trial.train_seconds, proxy_params=int(trial.proxy_params)))
        with WorkerPool(run_job, workers=workers, timeout_s=timeout_s) as pool:
            train_missing(planned, store, pool, progress, workers=workers)
        table = frame_of([store.rows[item.row.key] for item in planned if store.has(item.row.key)],
                         RankedTraining)
    return table, analyse(table, front)


def study_results(path: Path) -> tuple[pd.DataFrame, Trust]:
    """Analyse a table without training; its front is the set `front`, else what its short trainings make."""
    table = read_table(path, RankedTraining)
    facts = table[table["set"] == "front"].drop_duplicates("hash").set_index("hash")
    if facts.empty:
        short = table[(table["variant"] == "short") & table["loss"].notna() & table["latency_ms"].notna()]
        facts = short.groupby("hash").agg(loss=("loss", "mean"), latency_ms=("latency_ms", "first"))
        facts = facts[non_dominated(facts.to_numpy(float))] if len(facts) else facts
    return table, analyse(table, list(facts.sort_values("latency_ms").index))


def _recipe_and_text(run: RecordedRun) -> tuple[Recipe, Dataset]:
    if not run.entry("finished"):
        raise RunError(f"{run.path}: the search is not finished; continue it with flashnas search --resume"
                       f" first")
    question = run.entry("question")
    if not isinstance(question, dict) or not isinstance(question.get("recipe"),
                                                        dict) or "data" not in question:
        raise RunError(f"{run.path}/run.yaml: question.recipe and question.data must say how the run trained")
    if not isinstance(question["data"], str):
        raise RunError(f"{run.path}/run.yaml: question.data must be text; got {question['data']!r}")
    recipe = Recipe.from_dict(question["recipe"])
    dataset = prepare_dataset(question["data"], recipe, question.get("tokenizer"))
    if dataset.folder.name != question.get("corpus"):
        raise RunError(f"{run.path}: the text of {question['data']!r} is not the one that the run was"
                       f" trained on; losses would not compare")
    return recipe, dataset


def choose(trained: pd.DataFrame, front: Sequence[str], count: int) -> pd.DataFrame:
    """Rows of up to `count` architectures: the front, evenly thinned, then others evenly spread over the
    ranking."""
    inside = trained[trained["hash"].isin(front)].sort_values("latency_ms", kind="stable")
    others = trained[~trained["hash"].isin(front)].sort_values("loss", kind="stable")
    inside = _spread(inside, count)
    return pd.concat([inside, _spread(others, count - len(inside))])


def _spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    count = min(count, len(frame))
    return frame.iloc[np.linspace(0, len(frame) - 1,
                                  count).round().astype(int)] if count > 0 else frame.iloc[:0]


def _trainings(run: RecordedRun, plan: Plan, recipes: dict[str, Recipe], front: Sequence[str],
               dataset: Dataset,
               ) -> list[PlannedTraining[RankedTraining]]:
    """Cheap variants and the run's own seed first: what is there when it is broken off says most for its
    cost."""
    chosen = choose(run.trained, front, plan.architectures)
    if len(chosen) < MIN_RANKED:
        raise RunError(f"{run.path}: proxy-trust needs at least {MIN_RANKED} trained architectures; the run"
                       f" holds {len(chosen)}")
    first = int(chosen["seed"].iloc[0])
    cost = {"short": 1.0, "long": float(plan.longer), "wide": float(plan.wider or 1) ** 2}
    planned = []
    for variant in sorted(recipes, key=lambda name: cost[name]):
        recipe = recipes[variant]
        for seed in range(first, first + plan.seeds):
            for trial in rows(chosen):
                row = RankedTraining(
                    set="front" if trial.hash in front else "spread", notation=trial.notation,
                    hash=trial.hash,
                    params=int(trial.params), latency_ms=trial.latency_ms,
                    variant=variant,  # type: ignore[arg-type]
                    width_factor=recipe.width_factor, tokens=recipe.steps * recipe.batch_tokens, seed=seed)
                job = Job(architecture=Architecture.parse(trial.notation), dataset=str(dataset.folder),
                          recipe=recipe.to_dict(), seed=seed)
                planned.append(PlannedTraining(row, trial.notation, job, cost[variant]
                                               * float(trial.train_seconds), variant))
    return planned
