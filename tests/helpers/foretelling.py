"""Searches by published trainings that take a fraction of a second: few candidates, spaces by
shipped tables.
"""

from __future__ import annotations

import functools
from typing import Any

from flashnas.latency.costs import TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload
from flashnas.space import load_space
from flashnas.study import evidence_search, question
from flashnas.study.config import SearchConfig
from flashnas.study.evidence_search import search_by_evidence
from flashnas.study.foresight import Foresight
from flashnas.study.question import Question
from flashnas.training.recipe import Recipe

FEW = {"FIRST": 250, "EACH": 150}


def with_few_candidates(patch: Any, candidates: int = 700) -> None:
    """Searches by published trainings look at few candidates, until `patch` is undone."""
    for name, count in FEW.items():
        patch.setattr(evidence_search, name, count)
    patch.setattr(
        question, "search_by_evidence", functools.partial(search_by_evidence, candidates=candidates)
    )


@functools.cache
def costs_of(table: str, workload: str) -> TableCosts:
    return TableCosts(
        LatencyModel(LatencyTable.load(table), load_workload(workload), calibration="paper")
    )


def question_of(
    config: SearchConfig, space: Any, fitter: Fitter[Any], recipe: Recipe | None
) -> Question:
    return Question(
        config=config,
        space=space,
        costs=fitter.costs,
        fitter=fitter,
        sampler="random",
        recipe=recipe,
    )


def asked(
    space: str,
    budget_ms: float,
    *,
    table: str = "h100_sxm",
    workload: str = "decode-1k",
    recipe: Recipe | None = None,
    **more: Any,
) -> tuple[Any, Fitter[Any], Foresight]:
    """Space, fitter and models of a search."""
    config = SearchConfig(
        space=space,
        table=table,
        workload=workload,
        budget_ms=budget_ms,
        calibration="paper",
        **more,
    )
    loaded = load_space(space)
    fitter: Fitter[Any] = Fitter(
        loaded, costs_of(table, workload), [Budget("latency_ms", budget_ms)]
    )
    foresight = question_of(config, loaded, fitter, recipe).foresight
    assert foresight is not None
    return loaded, fitter, foresight
