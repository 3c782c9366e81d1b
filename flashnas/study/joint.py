"""Loss and milliseconds, which are uncertain together, what no publication compares, and what observed
times change."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import TableCosts
from flashnas.loss.prediction import WITHIN_SDS, Prediction
from flashnas.run_folder.recorded_answer import Retimed
from flashnas.study.load import load_fitter
from flashnas.study.loop import search
from flashnas.study.problem import Problem
from flashnas.study.trials import Trials
from flashnas.trials.pareto import non_dominated

SLOPE_FROM = 0.7  # of the latency of the recommended network, from which on the front counts
TRAIT_SD = 0.01  # nats of what no publication compares and the evidence takes as equal


def nats_per_efold(trials: Trials) -> tuple[float, float]:
    """What a factor of e of latency is worth near the recommended network, in nats: the slope of
    loss over the logarithm of the latency, along the networks that no other one dominates in both;
    and by how much their losses differ at most, beyond which the slope is not known."""
    points = np.column_stack([trials.value, trials.latency_ms])[trials.ranked]
    front = np.unique(points[non_dominated(points)], axis=0)
    near = front[front[:, 1] >= SLOPE_FROM * trials.latency_ms[trials.best]]
    logs = np.log(near[:, 1])
    if len(near) < 3 or np.ptp(logs) < 1e-6:
        return 0.0, 0.0
    return max(0.0, -float(np.polyfit(logs, near[:, 0], 1)[0])), float(np.ptp(near[:, 0]))


def with_latencies(
    problem: Problem, trials: Trials, prediction: Prediction, networks: Sequence[Architecture]
) -> Prediction:
    """A posterior of losses at one latency: a network that turns out slower than estimated has to
    be smaller. The errors of two latencies cancel as far as both consist of the same kinds of
    operators; what the bounds say of one latency is shared out by the time of each kind."""
    slope, known = nats_per_efold(trials)
    if problem.model is None or not networks or not slope:
        return prediction
    sds, times = [], []
    for network in networks:
        metrics = problem.costs.metrics(network)
        sds.append(math.log(metrics["upper_ms"] / metrics["lower_ms"]) / (2 * WITHIN_SDS))
        of_kinds = problem.costs.details(network)["operators_ms"]
        times.append({kind: sum(by_source.values()) for kind, by_source in of_kinds.items()})
    kinds = sorted({kind for entry in times for kind in entry})
    shares = np.array([[entry.get(kind, 0.0) for kind in kinds] for entry in times])
    # a narrow front says nothing of networks far beyond it
    worth = np.minimum(np.array(sds) * slope, known)
    scaled = shares / np.linalg.norm(shares, axis=1)[:, None] * worth[:, None]
    return prediction.with_further(scaled @ scaled.T)


def with_traits(prediction: Prediction, networks: Sequence[Architecture]) -> Prediction:
    """A posterior that does not know what the evidence takes as equal: an untied head, feed-forward
    networks without a gate, attention with one."""
    traits = np.array(
        [
            [
                not network.tied,
                any(getattr(spec, "relu2", False) for spec in network.operators),
                any(getattr(spec, "out_gate", False) for spec in network.operators),
            ]
            for network in networks
        ],
        float,
    )
    centred = traits - 0.5  # neither side is surer of itself than the other
    return prediction.with_further(TRAIT_SD**2 * centred @ centred.T)


def retimed(problem: Problem, trials: Trials) -> Retimed:
    """What observed times changed; nothing where each network is trained."""
    model = problem.model
    if model is None or not model.observed:
        return {}
    notation, latency_ms = "", 0.0
    with contextlib.suppress(BudgetError):
        costs = TableCosts(model.corrected_by(None))
        fitter = load_fitter(problem.config, problem.space, costs)
        by_table = dataclasses.replace(
            problem, costs=costs, fitter=fitter, scorer=trials.scorer, trainings=None, trains=False
        )
        found = search(by_table)
        best = found.networks[found.best]
        notation, latency_ms = best.notation, float(model.latencies([best])[0])
    observed = {name: model.observed[name] for name in ("program", "networks", "ratio")}
    return Retimed(**observed, notation=notation, latency_ms=latency_ms)  # type: ignore[typeddict-item]
