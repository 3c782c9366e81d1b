"""What would have to be trained to answer another question better, and the search that trains it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.base.errors import BudgetError, MissingRowsError
from flashnas.base.registry import foreign_errors
from flashnas.base.shipped import shipped_names
from flashnas.latency.costs import RecordedCosts, metric_of
from flashnas.latency.fitting import Fitter, excess
from flashnas.latency.metrics import Budget
from flashnas.latency.workload import WORKLOADS
from flashnas.reuse.new_question import NewQuestion
from flashnas.reuse.resized import MAX_RESIZED, Resized, genotypes_of, resized_networks
from flashnas.search.objectives import DEFAULT


@dataclass(frozen=True)
class ToTrain:
    """What nobody trained. networks: the most promising first. fits: for each genotype that the runs tried or
    proposed, whether it has a width within the budgets; empty where no other width is known. searches:
    options of `flashnas search` that would train the networks and go on from all that the runs know, one for
    each space."""

    networks: tuple[Resized, ...] = ()
    fits: tuple[bool, ...] = ()
    searches: tuple[dict[str, Any], ...] = ()


def to_train(question: NewQuestion, front: np.ndarray) -> ToTrain:
    """Of all spaces of the runs. front: points [N, M] of the trained networks within the budgets."""
    known, costs, notes = question.known, question.costs, question.notes
    if isinstance(costs, RecordedCosts):
        notes.append("the metrics are those that the runs recorded; no other width is known")
        return ToTrain()
    networks: list[Resized] = []
    fits: list[bool] = []
    searches = []
    notes += [f"{run.path}: its space {run.entry('space', 'name')!r} is not at hand as it was; what would"
              " have to be trained of it is not known"
              for run, space in zip(known.runs, known.spaces, strict=True) if space is None]
    for space in {space.hash: space for space in known.spaces if space is not None}.values():
        fitter = Fitter(space, costs, question.budgets)
        with foreign_errors(("space", space), direct=False):
            resized = resized_networks(fitter, known, objectives=question.objectives, front=front)
            for genotype in genotypes_of(space, known):
                with contextlib.suppress(MissingRowsError):
                    fits.append(fitter.latency_of(genotype)[0] is not None)
        networks += resized
        searches += _search(question, space.hash, len(resized))
    networks.sort(key=lambda resized: -(resized.gain or 0.0))  # stable: without gains the order of each space
    return ToTrain(tuple(networks), tuple(fits), tuple(searches))


def _search(question: NewQuestion, space_hash: str, count: int) -> list[dict[str, Any]]:
    """The options of a search from the runs for the new question, at most one."""
    run = next(run for run, space in zip(question.known.runs, question.known.spaces, strict=True)
               if space is not None and space.hash == space_hash)
    recorded = run.entry("question")
    if recorded.get("recipe") is None or question.model is None:
        return []
    name, workload = str(run.entry("space", "name")), question.model.workload
    shipped = name in shipped_names("search_spaces", ".yaml")
    options = {
        "space": name if shipped else str(run.entry("space", "path") or name), "table": question.table,
        "workload": workload.name if WORKLOADS.get(workload.name) == workload else
        f"batch={workload.batch},prompt={workload.prompt_tokens},generated={workload.generated_tokens},"
        f"dtype={workload.dtype}",
        "mode": question.mode, "budgets": dict(question.limits),
        "objectives": None if question.objectives == DEFAULT else list(question.objectives),
        "rank_by": None if recorded.get("rank_by") == "full" else recorded.get("rank_by"),
        "confidence": question.confidence, "data": recorded.get("data"),
        "tokenizer": recorded.get("tokenizer"), "seed": recorded["seed"],
        "start_from": [str(run.path) for run in question.known.runs],
        "trials": 2 * min(count, MAX_RESIZED) or MAX_RESIZED}
    return [{name: value for name, value in options.items() if value not in (None, {})}]


def none_fits(question: NewQuestion, outside: Sequence[tuple[Any, Mapping[str, float]]]) -> BudgetError:
    """Neither a trained network nor a width of a genotype meets the budgets: the nearest of all."""
    known, costs = question.known, question.costs
    networks = [(trained.row.notation, metrics) for trained, metrics in outside]
    for space in () if isinstance(costs, RecordedCosts) else {own.hash: own for own in known.spaces
                                                              if own}.values():
        for genotype in genotypes_of(space, known):
            with foreign_errors(("space", space), direct=False), contextlib.suppress(MissingRowsError):
                network = space.architectures(genotype)[-1]
                networks.append((network.notation, costs.metrics(network)))
    notation, metrics = min(networks, key=lambda pair: excess_of(pair[1], question.budgets))
    listed = ", ".join(f"{budget.metric} {metrics[budget.metric]:,.4g} (budget {budget.limit:,.6g})"
                       for budget in question.budgets)
    return BudgetError(f"no network of the runs meets the budget; the nearest that is known has {listed}:"
                       f" {notation}")


def excess_of(metrics: Mapping[str, float], budgets: Sequence[Budget]) -> float:
    """By how much the budget that is exceeded most is exceeded."""
    return max(excess(metric_of(budget.metric, metrics), budget) for budget in budgets)
