"""The best network without experts, the best one with them, and where the choice between them turns:
with how much memory, and with how many sequences at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from flashnas.architecture.networks import taken
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.run_folder.recorded_answer import DenseOrSparse, Turn
from flashnas.study.comparison import side_of
from flashnas.study.full_training import SPARSE_RATE
from flashnas.study.joint import with_latencies
from flashnas.study.problem import Problem
from flashnas.study.scorer import Scorer
from flashnas.study.trials import ALIKE_NATS, Trials

MEMORIES_GB = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192)
TOGETHER = 32  # trials that are looked at together
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
Pair = tuple[int | None, int | None]  # indices of a dense and of a sparse network


def dense_or_sparse(problem: Problem, scorer: Scorer, trials: Trials) -> DenseOrSparse:
    """Both options within the limits of a search; nothing where its networks are all of one sort."""
    limit_gb = next((b.limit for b in problem.fitter.budgets if b.metric == "memory_gb"), None)
    if problem.model is None or trials.ranks_by != "value" or limit_gb is None:
        return {}
    networks = trials.networks
    memory_gb = trials.columns["memory_gb"]
    sparse = trials.columns["active_params"] < trials.columns["params"]
    ranked = ~np.isnan(trials.value)

    def pair(within: np.ndarray) -> Pair:
        """The best dense and the best sparse one of these."""
        dense, other = (
            trials.simplest(indices.tolist()) if len(indices := np.flatnonzero(mask)) else None
            for mask in (ranked & within & ~sparse, ranked & within & sparse)
        )
        return dense, other

    best_dense, best_sparse = pair(np.ones(len(networks), bool))
    if best_dense is None or best_sparse is None:
        return {}
    by_memory = {
        float(gb): pair(memory_gb <= gb)
        for gb in (*(gb for gb in MEMORIES_GB if gb < limit_gb), limit_gb)
    }
    by_batch = _by_batch(problem, trials, sparse, pair)
    named = {best_dense, best_sparse}
    for two in (*by_memory.values(), *by_batch.values()):
        named |= {index for index in two if index is not None}
    at = {index: place for place, index in enumerate(sorted(named))}
    compared = [networks[index] for index in at]
    joint = with_latencies(problem, trials, scorer.posterior(compared), compared)

    def turns(pairs: dict[float, Pair]) -> list[Turn]:
        found: list[Turn] = []
        for limit, (dense, other) in pairs.items():
            turn: Turn = {"limit": limit, "difference": None, "sd": None}
            if dense is not None and other is not None:
                turn["difference"], turn["sd"] = joint.difference(at[other], at[dense])
            found.append(turn)
        return found

    difference, sd = joint.difference(at[best_sparse], at[best_dense])
    return {
        "dense": side_of(problem.costs, scorer, networks[best_dense]),
        "sparse": side_of(problem.costs, scorer, networks[best_sparse]),
        "difference": difference,
        "sd": sd,
        "memory_gb": limit_gb,
        "by_memory": turns(by_memory),
        "by_batch": turns(by_batch),
        "sparse_rate": SPARSE_RATE,
    }


def _by_batch(
    problem: Problem, trials: Trials, sparse: np.ndarray, pair: Callable[[np.ndarray], Pair]
) -> dict[float, Pair]:
    """The pair at each batch from that of the workload on, within the same limits.
    What fits more sequences at once fits fewer, too, so that all of it was tried."""
    model = problem.model
    assert model is not None
    batch = model.workload.batch
    found: dict[float, Pair] = {}
    for larger in () if batch == "max" else (batch, *(size for size in BATCHES if size > batch)):
        workload = dataclasses.replace(model.workload, batch=larger)
        fitter = Fitter(problem.space, TableCosts(model.at(workload)), problem.fitter.budgets)
        within = np.zeros(len(sparse), bool)
        for start in range(0, len(trials.ranked), TOGETHER):
            part = trials.ranked[start : start + TOGETHER]
            within[part] = fitter.within(taken(trials.networks, part))
            sorts = [trials.value[within & sort] for sort in (sparse, ~sparse)]
            # the best one of both sorts, and all that are alike, are among those so far
            worst = max(values.min(initial=np.inf) for values in sorts)
            if trials.value[part[-1]] > worst + ALIKE_NATS:
                break
        found[float(larger)] = pair(within)
    return found
