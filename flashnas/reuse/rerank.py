"""The front of finished runs for another budget, device, workload or other objectives, with nothing trained
again.

The networks keep their losses; their metrics are estimated anew. A genotype whose width under the new
question is another one is a network that nobody trained: such genotypes are listed (resized.py), and so is
the search that trains them (next_search.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from flashnas.base.errors import ConfigError, MissingRowsError, TableError
from flashnas.latency.costs import CostFunction, metric_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.reuse.known import Trained, known_runs
from flashnas.reuse.new_question import new_question
from flashnas.reuse.next_search import ToTrain, excess_of, none_fits, to_train
from flashnas.reuse.reranked_run import network_of, reranked_run
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import TRAINED, check_objectives


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """The answer to another question.

    run: the trained networks under it, as a run: those within the budgets have a loss in its trials, and its
    front is theirs. outside: number of the others. unanswered: reason -> networks that the table cannot
    answer. nearest: metrics of the network that is nearest to the budgets, where none meets them. to_train:
    what would have to be trained, at another width or past a rung. tokens_each: training tokens of one of
    these. seconds_each: mean time of a training in the runs.
    """

    run: RecordedRun
    trained: int
    outside: int
    unanswered: dict[str, int]
    nearest: dict[str, float] | None
    to_train: ToTrain
    tokens_each: int
    seconds_each: float | None
    notes: tuple[str, ...]

    @property
    def genotypes(self) -> int:
        """All that the runs tried or proposed; 0 where no other width is known."""
        return len(self.to_train.fits)

    @property
    def too_large(self) -> int:
        """Of the genotypes, those without a width within the budgets."""
        return self.to_train.fits.count(False)

    def to_dict(self) -> dict[str, Any]:
        run = self.run
        return {
            "runs": run.config["runs"], "table": (run.config["table"] or {}).get("name"),
            "workload": run.config["workload"], "budgets": run.config["budgets"],
            "objectives": list(run.objectives), "confidence": run.confidence,
            "front": [{"notation": entry.notation, "hash": entry.hash, **entry.figures,
                       "origin": entry.origin} for entry in run.front],
            "networks": {"trained": self.trained, "outside": self.outside, "unanswered": self.unanswered},
            "nearest": self.nearest,
            "to_train": {"count": len(self.to_train.networks), "genotypes": self.genotypes,
                         "too_large": self.too_large, "tokens_each": self.tokens_each,
                         "seconds_each": self.seconds_each,
                         "networks": [resized.to_dict() for resized in self.to_train.networks],
                         "searches": list(self.to_train.searches)},
            "notes": list(self.notes)}


def rerank(sources: Sequence[str | Path | RecordedRun], *,
           table: str | LatencyTable | CostFunction | None = None, workload: str | Workload | None = None,
           mode: str | None = None, budgets: Mapping[str, float] | None = None,
           objectives: Sequence[str] | None = None, confidence: float | None = None,
           space: Any = None) -> Reranked:
    """The front of runs for another question. What is None is as in the first run; budgets only for the same
    table and workload, since a limit in milliseconds means nothing on another device.

    Raises:
        RunError: a folder is not a run, or the losses of the runs do not compare.
        ConfigError: the runs did not train an objective, or their networks cannot be timed by the table.
        BudgetError: no network of the runs meets the budgets, at any width that is known.
        TableError, WorkloadError: the table or workload cannot be read, or the table answers for no network.
    """
    known = known_runs(sources, space)
    first = known.runs[0]
    if space is not None and all(run.entry("space", "hash") != space.hash for run in known.runs):
        raise ConfigError(f"pareto.space: {space.name!r} is not the space of {first.path} as it was searched,"
                          f" {first.entry('space', 'name')!r}")
    names = check_objectives(objectives or first.objectives, _refuse_objectives)
    for name in (name for name in names if name in TRAINED and name != "loss"):
        for run in known.runs:
            if run.trials.get(name, pd.Series()).isna().all():
                raise ConfigError(f"pareto.objectives names {name!r}, which {run.path} did not train")
    question = new_question(known, names, table=table, workload=workload, mode=mode, budgets=budgets,
                            confidence=confidence)
    limits = question.budgets
    within: list[tuple[Trained, dict[str, float]]] = []
    outside: list[tuple[Trained, dict[str, float]]] = []
    unanswered: Counter[str] = Counter()
    for trained in known.networks:
        try:
            metrics = question.costs.metrics(network_of(trained))
        except MissingRowsError as error:
            unanswered[str(error)] += 1
            continue
        fits = all(budget.holds(metric_of(budget.metric, metrics)) for budget in limits)
        (within if fits else outside).append((trained, metrics))
    if not within and not outside:
        raise TableError(f"{next(iter(unanswered))} (and so for all {len(known)} networks of the runs)")
    run, front = reranked_run(question, within, outside)
    missing = to_train(question, front)
    if not within and not missing.networks:
        raise none_fits(question, outside)
    nearest = None
    if not within and limits:
        _, metrics = min(outside, key=lambda pair: excess_of(pair[1], limits))
        nearest = {budget.metric: metrics[budget.metric] for budget in limits}
    rows = [trained.row for trained in known.networks]
    seconds = [row.train_seconds for row in rows if row.source in ("training", "evaluator")
               and row.train_seconds == row.train_seconds]
    recipe = known.recipe
    return Reranked(
        run=run, trained=len(known), outside=len(outside), unanswered=dict(unanswered), nearest=nearest,
        to_train=missing, tokens_each=0 if recipe is None else recipe.steps * recipe.batch_tokens,
        seconds_each=float(np.mean(seconds)) if seconds else None, notes=tuple(question.notes))


def _refuse_objectives(rule: str) -> NoReturn:
    raise ConfigError(f"pareto.objectives {rule}")
