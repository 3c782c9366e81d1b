"""Networks beside each other: the differences of their losses, which are uncertain together with their
milliseconds, the reasons for these, and what each costs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs
from flashnas.loss.prediction import WITHIN_SDS, Prediction
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.run_folder.recorded_answer import Against, Side
from flashnas.study.problem import Problem
from flashnas.study.scorer import FullTraining, Scorer
from flashnas.study.trials import Trials
from flashnas.trials.pareto import non_dominated

TOGETHER = 199  # networks that are compared with one at once
SLOPE_FROM = 0.7  # of the latency of the recommended network, from which on the front counts
TRAIT_SD = 0.01  # nats of what no publication compares and the evidence takes as equal


def below_zero(mean: float, sd: float) -> float:
    """Probability that a normal variable is below 0; of a constant 0, one half."""
    if sd > 1e-9:
        return float(ndtr(-mean / sd))
    return 0.5 * (mean < 0) + 0.5 * (mean <= 0)


def differences_to(
    scorer: Scorer, chosen: Architecture, networks: Sequence[Architecture]
) -> dict[str, tuple[float, float]]:
    """Loss of each network less that of the chosen one, and its standard deviation, by its hash."""
    # without cycles the order of trials is that of completion
    ordered = sorted({network.hash: network for network in networks}.items())
    others = [network for key, network in ordered if key != chosen.hash]
    found = {chosen.hash: (0.0, 0.0)}
    for start in range(0, len(others), TOGETHER):
        part = others[start : start + TOGETHER]
        joint = scorer.posterior([chosen, *part])
        means, sds = (joint.mean - joint.mean[0]).tolist(), joint.sd_to(0).tolist()
        pairs = zip(means[1:], sds[1:], strict=True)
        found |= {network.hash: pair for network, pair in zip(part, pairs, strict=True)}
    return found


def at_one_latency(
    problem: Problem, trials: Trials, networks: Sequence[Architecture]
) -> Prediction:
    """The posterior of losses at one latency: a network that turns out slower than estimated has to
    be smaller. The errors of two latencies cancel as far as both consist of the same kinds of
    operators; what the bounds say of one latency is shared out by the time of each kind."""
    assert trials.scorer is not None
    prediction = trials.scorer.posterior(networks)
    slope, known = nats_per_efold(trials)
    if problem.model is None or not slope:
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
    return dataclasses.replace(prediction, shared=prediction.shared + scaled @ scaled.T)


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


def with_traits(prediction: Prediction, networks: Sequence[Architecture]) -> Prediction:
    """A posterior that does not know what the evidence takes as equal: an untied head, feed-forward
    networks without a gate, attention with one."""
    traits = [
        [
            not network.tied,
            any(getattr(spec, "relu2", False) for spec in network.operators),
            any(getattr(spec, "out_gate", False) for spec in network.operators),
        ]
        for network in networks
    ]
    centred = np.array(traits) - 0.5  # neither side is surer of itself than the other
    further = TRAIT_SD**2 * centred @ centred.T
    return dataclasses.replace(prediction, shared=prediction.shared + further)


def latency_ms(problem: Problem, network: Architecture) -> float | None:
    """None where the table has no row for a network, or its device no room."""
    try:
        (latency_ms,) = problem.costs.columns([network], ["latency_ms"])["latency_ms"].tolist()
    except FlashnasError:
        return None
    return latency_ms if math.isfinite(latency_ms) else None


def side_of(costs: Costs, training: FullTraining, network: Architecture) -> Side:
    """What a network costs."""
    metrics = costs.metrics(network)
    names = ("latency_ms", "lower_ms", "upper_ms", "memory_gb", "params", "active_params")
    return {
        "notation": network.notation,
        **{name: metrics[name] for name in names},  # type: ignore[typeddict-item]
        "train_hours": training.hours_of(network),
    }


def against(
    costs: Costs, scorer: Scorer, training: FullTraining, networks: Sequence[Architecture]
) -> list[Against]:
    """Each network beside the first one."""
    joint, dense = scorer.posterior(networks), [without_experts(network) for network in networks]
    found = list[Against]()
    for index, network in enumerate(networks):
        # to decimals in which equal networks have no difference
        difference, sd = (round(nats, 6) for nats in joint.difference(index, 0))
        parts: Mapping[str, Any] = {**scorer.reasons([dense[index], dense[0]])}
        figures = scorer.figures(network)
        found.append(
            {
                **side_of(costs, training, network),
                "throughput_tok_s": costs.metrics(network)["throughput_tok_s"],
                "loads_in": list(loading(network)),
                "difference": difference,
                "sd": sd,
                "probability": below_zero(difference, sd),
                "reasons": {**parts, "experts": difference - sum(parts.values())},
                "recall": figures["expected_recall"],
                "recall_sd": figures["expected_recall_sd"],
                "outside": figures.get("outside", ""),
            }
        )
    return found


def without_experts(network: Architecture) -> Architecture:
    """With feed-forward layers of the width that a token passes in place of experts."""
    operators = list(network.operators)
    for place, spec in enumerate(operators):
        if isinstance(spec, MixtureOfExperts):
            inner = spec.resolved(network.hidden).intermediate
            operators[place] = FeedForward(intermediate=spec.active * inner + spec.shared)
    return dataclasses.replace(network, operators=tuple(operators))
