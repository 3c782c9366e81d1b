"""Networks beside each other: the differences of their losses, which are uncertain together with their
milliseconds, the reasons for these, and what each costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.notation import preset_notations
from flashnas.base.errors import FlashnasError, RunError
from flashnas.loss.prediction import WITHIN_SDS, Prediction
from flashnas.run_folder.recorded_answer import Before
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.space import OperatorSpace
from flashnas.study.problem import Problem
from flashnas.study.scorer import Scorer
from flashnas.study.trials import Trials
from flashnas.trials.pareto import non_dominated
from flashnas.trials.trial import Trial

PUBLISHED_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")
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
    return prediction.with_further(scaled @ scaled.T)


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
    return prediction.with_further(TRAIT_SD**2 * centred @ centred.T)


def published_models(problem: Problem) -> dict[str, Architecture]:
    """Published models with the vocabulary of the space, so that they can be compared."""
    space, networks = problem.space, {}
    model = space.model if isinstance(space, OperatorSpace) else space.any_network()
    for name in PUBLISHED_MODELS:
        network = Architecture.parse(preset_notations()[name])
        networks[name] = dataclasses.replace(network, vocab=model.vocab, tied=model.tied)
    return networks


def before_of(problem: Problem, scorer: Scorer, chosen: Trial) -> Before | None:
    """What the run recommended that is asked again. Raises RunError where it recommends nothing."""
    if problem.config.again is None:
        return None
    run = RecordedRun.load(problem.config.again)
    trial = None if run.answer is None else run.finalists.get(run.answer.recommended)
    if trial is None:
        raise RunError(f"{run.path}: recommends no network, so that nothing can change")
    network = Architecture.parse(trial.notation)
    difference, sd = differences_to(scorer, chosen.architecture, [network])[network.hash]
    return {
        "notation": trial.notation,
        "latency_ms": trial.latency_ms,
        "now": latency_ms(problem, network),
        "difference": difference,
        "sd": sd,
    }


def latency_ms(problem: Problem, network: Architecture) -> float | None:
    """None where the table has no row for a network, or its device no room."""
    try:
        (latency_ms,) = problem.costs.columns([network], ["latency_ms"])["latency_ms"].tolist()
    except FlashnasError:
        return None
    return latency_ms if math.isfinite(latency_ms) else None
