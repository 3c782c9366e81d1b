"""Problems of searches by shipped tables, and searches that try few candidates."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import flashnas.study.load as load_module
from flashnas.study import problem as problem_module
from flashnas.study import second_searches
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.problem import Problem
from flashnas.study.trials import Trials

FEW, TOGETHER = 300, 40
MANY = load_module.PROPOSALS, problem_module.CYCLE, problem_module.SCORED


def with_many_candidates(patch: Any) -> None:
    """Searches by published trainings try as many candidates as those of users."""
    _patch(patch, *MANY)


def with_few_candidates(patch: Any) -> None:
    """Searches by published trainings try few candidates, until `patch` is undone."""
    _patch(patch, FEW, TOGETHER, {"aging-evolution": {"population": 40, "tournament": 8}})
    patch.setattr(second_searches, "FREE_PROPOSALS", 100)


def _patch(patch: Any, proposals: int, cycle: int, scored: dict[str, Any]) -> None:
    patch.setattr(load_module, "PROPOSALS", proposals)
    patch.setattr(problem_module, "CYCLE", cycle)
    patch.setattr(problem_module, "SCORED", scored)


def trials_of(
    problem: Problem,
    networks: Sequence[Any],
    objectives: Sequence[str] = ("full_loss", "latency_ms"),
    **columns: Any,
) -> Trials:
    """Trials of made-up networks, of a genotype each, with these columns; without them with what the
    problem says."""
    count, costs = len(networks), problem.costs
    trials = Trials(problem.fitter, objectives, problem.scorer)
    trials.networks = networks
    trials.genotypes = list(range(count))
    trials.proposed = {index: range(index, index + 1) for index in range(count)}
    found = {name: np.full(count, np.nan) for name in trials.columns}
    if not columns:
        known = ("latency_ms", "memory_gb", "params", "active_params")
        found |= costs.columns(networks, known)
        found["value"] = problem.scorer.values(networks)
    trials.columns = found | {name: np.array(column, float) for name, column in columns.items()}
    return trials


@functools.cache
def problem_of(space: str = "nemotron_flash", budget_ms: float = 1500.0, **more: Any) -> Problem:
    """Of a search that trains nothing."""
    options = {
        "table": "h100_sxm",
        "workload": "decode-1k",
        "calibration": "paper",
        "trials": 0,
        **more,
    }
    config = SearchConfig(space=space, budget_ms=budget_ms, **options)
    return load_problem(config)
