"""Problems of searches by shipped tables, and searches that try few candidates."""

from __future__ import annotations

import functools
from typing import Any

from flashnas.study import dense_or_sparse, explore, rivals
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Problem, load_problem

FEW = {"MAX_TRIED": 300, "POPULATION": 40, "CYCLE": 40, "TOURNAMENT": 8}


MANY = {name: getattr(explore, name) for name in FEW}
BATCHES = dense_or_sparse.BATCHES


def with_all_batches(patch: Any) -> None:
    """Searches compare networks with and without experts at as many batches as those of users."""
    patch.setattr(dense_or_sparse, "BATCHES", BATCHES)


def with_many_candidates(patch: Any) -> None:
    """Searches by published trainings try as many candidates as those of users."""
    for name, count in MANY.items():
        patch.setattr(explore, name, count)


def with_few_candidates(patch: Any) -> None:
    """Searches by published trainings try few candidates, until `patch` is undone."""
    for name, count in FEW.items():
        patch.setattr(explore, name, count)
    patch.setattr(rivals, "FREE_TRIED", FEW["MAX_TRIED"])
    patch.setattr(dense_or_sparse, "BATCHES", BATCHES[-1:])


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
