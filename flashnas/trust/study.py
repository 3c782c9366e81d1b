"""The study behind `flashnas proxy-trust`: further trainings that show how far the order of a finished run holds.

Architectures of the front come first, then others spread over the ranking. Each is trained short under further seeds
and long under all of them, on the run's own recipe and text. Every finished training is in RUN/proxy_trust.csv at once.
The run's own seed chose the front; its short losses there are therefore a little too good. Those of further seeds are
not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError
from flashnas.base.files import hold_lock
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.evidence.agreement import MIN_RANKED
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import WorkerPool
from flashnas.runs.run import Run, rows
from flashnas.search.pareto import non_dominated
from flashnas.study.config import TIMEOUT_S
from flashnas.training.recipe import Recipe
from flashnas.trust.analysis import Trust, analyse
from flashnas.trust.table import KEY, TrustTable, read_table

FILE = "proxy_trust.csv"
Progress = Callable[[int, int, float], None]  # trainings done, all, seconds left


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train. longer: tokens of a long training over those of the run. wider: width of a further variant over
    that of the run; None: no such variant. Raises ConfigError naming the option."""

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
        found = {"short": recipe, "long": dataclasses.replace(recipe, tokens=recipe.tokens * self.longer)}
        if self.wider is not None:
            if recipe.width_factor % self.wider:
                raise ConfigError(f"--wider must divide the run's width factor of {recipe.width_factor};"
                                  f" got {self.wider}")
            found["wide"] = dataclasses.replace(recipe, width_factor=recipe.width_factor // self.wider)
        return found


@dataclass(frozen=True)
class _Training:
    """One row to be: the architecture's trial (a row of Run.trained), variant, recipe and seed."""

    trial: Any
    variant: str
    recipe: Recipe
    seed: int
    set: str
    expected_s: float  # from what the run's own short training took

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.trial.hash, self.variant, self.recipe.width_factor, self.recipe.steps * self.recipe.batch_tokens,
                self.seed)

    def row(self, score: dict[str, Any] | None, reason: str) -> dict[str, Any]:
        figures = {name: score[name] for name in ("loss", "bits_per_byte", "tokens_per_s", "seconds", "proxy_params")
                   } if score else {}
        known = dict(zip(KEY, self.key, strict=True))
        return {"set": self.set, "notation": self.trial.notation, "params": int(self.trial.params),
                "latency_ms": self.trial.latency_ms, **known, **figures, "reason": reason}


def study(run: Run, plan: Plan, *, workers: int, progress: Progress) -> tuple[pd.DataFrame, Trust]:
    """Train what is missing, then analyse; returns the trainings that the plan asks for and what they say.

    Raises RunError for a run that is not finished, holds too few architectures or is being studied already.
    """
    recipe, dataset = _asked(run)
    front = [entry.hash for entry in run.front]
    wanted = _trainings(run, plan, plan.recipes(recipe), front)
    path = run.path / FILE
    busy = RunError(f"{run.path}: another proxy-trust is training for this run")
    with hold_lock(run.path / f".{FILE}.lock", busy):
        table = TrustTable(path)
        known = set(map(tuple, read_table(path)[KEY].to_numpy().tolist()))
        for training in wanted:
            if training.key not in known and (score := _own_score(training)):
                table.add(training.row(score, ""))
                known.add(training.key)
        missing = [training for training in wanted if training.key not in known]
        _train(missing, len(wanted), table, dataset, plan, workers, progress)
    found = read_table(path).set_index(KEY, drop=False)
    asked = found.loc[[training.key for training in wanted]].reset_index(drop=True)
    return asked, analyse(asked, front)


def study_results(path: Path) -> tuple[pd.DataFrame, Trust]:
    """Analyse a table of trainings without training; its front is the set `front`, else what its short losses and
    latencies leave undominated."""
    table = read_table(path)
    marked = table[table["set"] == "front"]
    short = table[(table["variant"] == "short") & table["loss"].notna() & table["latency_ms"].notna()]
    means = short.groupby("hash").agg(loss=("loss", "mean"), latency_ms=("latency_ms", "first"))
    if len(marked):
        facts = marked.drop_duplicates("hash").set_index("hash")
    else:
        facts = means[non_dominated(means.to_numpy(float))] if len(means) else means
    return table, analyse(table, list(facts.sort_values("latency_ms").index))


# -- what a run needs --------------------------------------------------------------------------------------------


def _asked(run: Run) -> tuple[Recipe, Dataset]:
    """The run's own recipe and text; raises RunError if it is not finished or the text has changed."""
    if not run.entry("finished"):
        raise RunError(f"{run.path}: the search is not finished; continue it with flashnas search --resume first")
    question = run.entry("question")
    if not isinstance(question, dict) or not isinstance(question.get("recipe"), dict) or "data" not in question:
        raise RunError(f"{run.path}/run.yaml: question.recipe and question.data must say how the run trained")
    if not isinstance(question["data"], str):
        raise RunError(f"{run.path}/run.yaml: question.data must be text; got {question['data']!r}")
    recipe = Recipe.from_dict(question["recipe"])
    dataset = prepare_dataset(question["data"], recipe, question.get("tokenizer"))
    if dataset.folder.name != question.get("corpus"):
        raise RunError(f"{run.path}: the text of {question['data']!r} is not the one that the run was trained on;"
                       " losses would not compare")
    return recipe, dataset


def choose(trained: pd.DataFrame, front: Sequence[str], count: int) -> pd.DataFrame:
    """Rows of up to `count` architectures: the front (evenly thinned if it is larger), then others evenly spread over
    the ranking by loss, best and worst included."""
    inside = trained[trained["hash"].isin(front)].sort_values("latency_ms", kind="stable")
    others = trained[~trained["hash"].isin(front)].sort_values("loss", kind="stable")
    taken = [_spread(inside, count)]
    taken.append(_spread(others, count - len(taken[0])))
    return pd.concat(taken)


def _spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    count = min(count, len(frame))
    return frame.iloc[np.linspace(0, len(frame) - 1, count).round().astype(int)] if count > 0 else frame.iloc[:0]


def _trainings(run: Run, plan: Plan, recipes: dict[str, Recipe], front: Sequence[str]) -> list[_Training]:
    """Cheap variants and the run's own seed first: what is there when a study is broken off says most for its cost."""
    chosen = choose(run.trained, front, plan.architectures)
    if len(chosen) < MIN_RANKED:
        raise RunError(f"{run.path}: proxy-trust needs at least {MIN_RANKED} trained architectures; the run holds"
                       f" {len(chosen)}")
    first = int(chosen["seed"].iloc[0])
    cost = {"short": 1.0, "long": float(plan.longer), "wide": float(plan.wider or 1) ** 2}
    return [_Training(trial, variant, recipe, first + seed, "front" if trial.hash in front else "spread",
                      cost[variant] * float(trial.train_seconds))
            for variant, recipe in sorted(recipes.items(), key=lambda entry: cost[entry[0]])
            for seed in range(plan.seeds) for trial in rows(chosen)]


def _own_score(training: _Training) -> dict[str, Any] | None:
    """The score that the run itself gave this training."""
    trial = training.trial
    if training.variant != "short" or training.seed != int(trial.seed):
        return None
    return {"loss": trial.loss, "bits_per_byte": trial.bits_per_byte, "tokens_per_s": trial.tokens_per_s,
            "seconds": trial.train_seconds, "proxy_params": int(trial.proxy_params)}


# -- training ----------------------------------------------------------------------------------------------------


def _train(missing: Sequence[_Training], total: int, table: TrustTable, dataset: Dataset, plan: Plan, workers: int,
           progress: Progress) -> None:
    jobs = {str(number): Job(architecture=Architecture.parse(training.trial.notation), dataset=str(dataset.folder),
                             recipe=training.recipe.to_dict(), seed=training.seed)
            for number, training in enumerate(missing)}
    left = dict(enumerate(missing))
    took: dict[str, list[tuple[float, float]]] = {}  # (seconds, expected) of the finished ones by variant

    def remaining_s() -> float:
        pace = {variant: sum(s for s, _ in pairs) / max(sum(e for _, e in pairs), 1e-9)
                for variant, pairs in took.items()}
        guess = sum(pace.values()) / len(pace) if pace else 1.0
        return sum(t.expected_s * pace.get(t.variant, guess) for t in left.values()) / max(1, min(workers, len(left)))

    timeout_s = TIMEOUT_S * max(plan.longer, (plan.wider or 1) ** 2)
    with WorkerPool(run_job, workers=workers, timeout_s=timeout_s) as pool:
        for key, ended in pool.run(jobs, on_wait=lambda: progress(total - len(left), total, remaining_s())):
            training = left.pop(int(key))
            table.add(training.row(score := ended.result, ended.reason))
            if score:
                took.setdefault(training.variant, []).append((score["seconds"], training.expected_s))
    progress(total, total, 0.0)
