"""The best network without experts, the best one with them, and up to where the same sort is better:
with how little memory, and with how many sequences at once."""

from __future__ import annotations

import dataclasses

import numpy as np

from flashnas.architecture.networks import taken
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.run_folder.recorded_answer import DenseOrSparse
from flashnas.study.comparison import at_one_latency
from flashnas.study.problem import Problem
from flashnas.study.side_by_side import side_of
from flashnas.study.trials import ALIKE_NATS, Trials

MEMORIES_GB = (192, 128, 96, 80, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
TOGETHER = 32  # trials that are looked at together


def dense_or_sparse(problem: Problem, trials: Trials) -> DenseOrSparse | None:
    """Both options within the limits of a search; None where its networks are all of one sort."""
    scorer, columns = trials.scorer, trials.columns
    limit_gb = next((b.limit for b in problem.fitter.budgets if b.metric == "memory_gb"), None)
    if problem.model is None or trials.ranks_by != "value" or limit_gb is None or scorer is None:
        return None
    sparse = columns["active_params"] < columns["params"]
    known = ~np.isnan(trials.value)

    def best(within: np.ndarray) -> list[int]:
        """The best dense and the best sparse one of these, of the sorts that are there."""
        sorts = (np.flatnonzero(known & within & of_sort) for of_sort in (~sparse, sparse))
        return [trials.simplest(indices) for indices in sorts if len(indices)]

    pair = [trials.networks[index] for index in best(np.ones(len(sparse), bool))]
    if len(pair) < 2:
        return None
    difference, sd = at_one_latency(problem, trials, pair).difference(1, 0)

    def holds(within: np.ndarray) -> bool:
        """Whether the same sort is better of these."""
        if len(two := best(within)) < 2:
            return False
        means = scorer.posterior([trials.networks[index] for index in two]).mean
        return bool((means[1] < means[0]) == (difference < 0))

    from_gb, to_batch = limit_gb, None
    for memory_gb in (gb for gb in MEMORIES_GB if gb < limit_gb):
        if not holds(columns["memory_gb"] <= memory_gb):
            break
        from_gb = float(memory_gb)
    batch = problem.model.workload.batch
    if batch != "max":
        to_batch = batch
        for larger in (size for size in BATCHES if size > batch):
            if not holds(within_at(problem, trials, larger, sparse)):
                break
            to_batch = larger
    dense_side, sparse_side = (side_of(problem.costs, problem.training, each) for each in pair)
    return {
        "dense": dense_side,
        "sparse": sparse_side,
        "difference": difference,
        "sd": sd,
        "memory_gb": limit_gb,
        "from_gb": from_gb,
        "to_batch": to_batch,
    }


def within_at(problem: Problem, trials: Trials, batch: int, sparse: np.ndarray) -> np.ndarray:
    """Which trials are within the same limits at another batch, as far as the best one of both sorts
    is among them. What fits more sequences at once fits fewer, too, so that all of it was tried."""
    model = problem.model
    assert model is not None
    workload = dataclasses.replace(model.workload, batch=batch)
    fitter = Fitter(problem.space, TableCosts(model.at(workload)), problem.fitter.budgets)
    within = np.zeros(len(trials), bool)
    for start in range(0, len(trials.ranked), TOGETHER):
        part = trials.ranked[start : start + TOGETHER]
        within[part] = fitter.within(taken(trials.networks, part))
        sorts = [trials.value[within & sort] for sort in (sparse, ~sparse)]
        # all that are alike with the best one of both sorts are among those so far
        worst = max(values.min(initial=np.inf) for values in sorts)
        if trials.value[part[-1]] > worst + ALIKE_NATS:
            break
    return within
