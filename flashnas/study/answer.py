"""The answer of a search: which network to train, how sure that is, and what it is compared with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.notation import preset_notations
from flashnas.base.errors import FlashnasError
from flashnas.base.text import range_of
from flashnas.run_folder.recorded_answer import (
    Answer,
    Bought,
    Claims,
    Equals,
    FamilyBest,
    FullTraining,
    PublishedModel,
)
from flashnas.space import OperatorSpace
from flashnas.study.full_training import FULL_UTILISATION, full_training_flops, full_training_hours
from flashnas.study.joint import retimed, with_latencies, with_traits
from flashnas.study.problem import Problem
from flashnas.study.scorer import EvidenceScorer, Scorer, load_scorer
from flashnas.study.trials import Trials
from flashnas.trials.trial import Trial

FREE_MIX = "free mix"  # title of the best network of the free space, which is of no family
DISTINCT = 0.8  # probability from which on a network counts as worse than another, or as equal
EQUAL_NATS = 0.004  # difference up to which two networks are equal
EXAMPLES = 2  # of equal networks
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
NEAR = 200  # networks near the recommended one, of which the mean of one may be lower
PUBLISHED_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")
WIDER = 2.0  # times its width up to which a stack is looked at that makes up for a difference
WIDTH_STEP = 128
TOGETHER = 199  # networks that are compared with the recommended one at once
Difference = tuple[float, float, float]  # mean, standard deviation, probability of being below 0


def answer_of(
    problem: Problem,
    scorer: Scorer,
    trials: Trials,
    front: Sequence[Trial],
    chosen: Trial,
    rivals: Mapping[str, Trial],
    purchases: Sequence[Bought],
) -> Answer:
    """The answer that a front gives.

    Args:
        scorer: with all that was observed.
        trials: the networks of the space, by that scorer.
        front: trials, fastest first, with their differences to the recommended one.
        chosen: that one, on the front or not.
        rivals: title of a family, or FREE_MIX -> trial of its best network.
        purchases: what the search trained.
    """
    models = published_models(problem)
    networks = [*(trial.architecture for trial in rivals.values()), *models.values()]
    compared = differences_to(scorer, chosen.architecture, networks)
    families = {title: trial for title, trial in rivals.items() if title != FREE_MIX}
    mixed = rivals.get(FREE_MIX)
    return Answer(
        recommended=chosen.hash,
        tied=tuple(trial.hash for trial in front if is_tied(trial) and trial.hash != chosen.hash),
        families=tuple(_families(problem, scorer, trials, compared, families)),
        free_mix=None if mixed is None else _family(compared, FREE_MIX, mixed, 0.0),
        equals=_equals(problem, scorer, trials),
        **_beside_transformer(problem, scorer, families, chosen),
        published=tuple(
            published_model(problem, scorer, compared, name, model)
            for name, model in models.items()
        ),
        training=_full_training(chosen.architecture, scorer.tokens),
        claims=_claims(scorer, front, chosen),
        times=retimed(problem, trials) if trials.ranks_by == "value" else {},
        limit=_limit(problem, scorer, trials, chosen),
        bought=tuple(purchases),
        ranked_by=scorer.ranked_by
        if isinstance(scorer, EvidenceScorer)
        else f"scorer {type(scorer).__name__}",
        train_tokens=scorer.tokens,
        extrapolated=scorer.extrapolated,
    )


def value_of(trial: Trial) -> float:
    """By which networks are ranked, in nats per token."""
    assert trial.value is not None
    return trial.value


def is_tied(trial: Trial) -> bool:
    """Whether a network of the front may be as good as the recommended one."""
    difference, sd = trial.full_loss_difference or 0.0, trial.full_loss_difference_sd or 0.0
    return 1.0 - below_zero(difference, sd) < DISTINCT


def _families(
    problem: Problem,
    scorer: Scorer,
    trials: Trials,
    compared: Mapping[str, Difference],
    families: Mapping[str, Trial],
) -> Iterator[FamilyBest]:
    """The best network of each family, and the probability that it is the best of all."""
    if not families:
        return
    networks = [trial.architecture for trial in families.values()]
    joint = with_latencies(problem, trials, scorer.posterior(networks), networks)
    best = with_traits(joint, networks).best(range(len(networks)))
    for (title, trial), probability in zip(families.items(), best, strict=True):
        yield _family(compared, title, trial, float(probability))


def _family(
    compared: Mapping[str, Difference], title: str, trial: Trial, best: float
) -> FamilyBest:
    difference, sd, _ = compared[trial.hash]
    return {
        "family": title,
        "notation": trial.notation,
        "hash": trial.hash,
        "latency_ms": trial.latency_ms,
        "params": float(trial.params or 0),
        "difference": difference,
        "sd": sd,
        "best": best,
        "silence": trial.silence or 0.0,
    }


def _equals(problem: Problem, scorer: Scorer, trials: Trials) -> Equals:
    """Networks that are as good as the recommended one; those of other widths are the first examples."""
    order = [trials.best, *(index for index in trials.ranked if index != trials.best)][:NEAR]
    networks = [trials.networks[index] for index in order]
    joint = with_latencies(problem, trials, scorer.posterior(networks), networks)
    mean, sd = joint.mean - joint.mean[0], np.maximum(joint.sd_to(0), 1e-9)
    within = ndtr((EQUAL_NATS - mean) / sd) - ndtr((-EQUAL_NATS - mean) / sd)
    equal = [network for network, p in zip(networks[1:], within[1:], strict=True) if p >= DISTINCT]
    examples = sorted(equal, key=lambda network: network.hidden == networks[0].hidden)
    return {
        "count": len(equal),
        "within": EQUAL_NATS,
        "examples": [network.notation for network in examples[:EXAMPLES]],
    }


def _beside_transformer(
    problem: Problem, scorer: Scorer, families: Mapping[str, Trial], chosen: Trial
) -> dict[str, Any]:
    """The entries of the answer on the best transformer."""
    transformer = next((t for t in families.values() if _kinds(t.architecture) == {"a", "f"}), None)
    if transformer is None or transformer.hash == chosen.hash:
        return {}
    network = transformer.architecture
    found: dict[str, Any] = {"reasons": scorer.reasons([chosen.architecture, network])}
    equal = _as_good(problem, scorer, network, chosen.full_loss or 0.0)
    if equal is not None:
        found["wider"] = {
            "latency_ms": problem.costs.latencies([equal])[0],
            "params": float(equal.params),
        }
    return found


def _kinds(network: Architecture) -> set[str]:
    return {spec.kind for spec in network.operators}


def _full_training(network: Architecture, tokens: float) -> FullTraining:
    return {
        "tokens": tokens,
        "flops": full_training_flops(network, tokens),
        "h100_hours": full_training_hours(network, tokens),
        "utilisation": FULL_UTILISATION,
    }


def _claims(scorer: Scorer, front: Sequence[Trial], chosen: Trial) -> Claims:
    """What publications say of a front that own trainings alone rank."""
    if not isinstance(scorer, EvidenceScorer) or scorer.published:
        return {}
    publications = load_scorer(None, scorer.tokens, lambda _: None)
    ranked = list({trial.hash: trial for trial in (*front, chosen)}.values())
    networks: list[Architecture] = [trial.architecture for trial in ranked]
    values = publications.values(networks)
    best, own = ranked[int(np.argmin(values))], [trial.point[0] for trial in ranked]
    compared = differences_to(publications, chosen.architecture, [best.architecture])
    difference, sd, _ = compared[best.hash]
    pairs = list(itertools.combinations(range(len(ranked)), 2))
    alike = sum((values[i] < values[j]) == (own[i] < own[j]) for i, j in pairs)
    return {
        "hash": best.hash,
        "difference": difference,
        "sd": sd,
        "pairs": len(pairs),
        "alike": int(alike),
    }


def _limit(problem: Problem, scorer: Scorer, trials: Trials, chosen: Trial) -> str:
    """What keeps the recommended network from being better; as of an Answer."""
    metrics, config = vars(chosen), problem.config
    if config.params is not None:
        most, what = range_of(config.params)[1], "params"
    else:  # those that the file of the space allows
        most, what = getattr(problem.space, "params", (0, math.inf))[1], "space params"
    if chosen.architecture.active_params >= FULL_BUDGET * most:
        return what
    for budget in problem.fitter.budgets:
        value = metrics.get(budget.metric)
        if value and FULL_BUDGET <= value / budget.limit <= 1 / FULL_BUDGET:
            return "memory" if budget.metric == "memory_gb" else "budget"
    near = [trials.networks[index] for index in trials.ranked[:NEAR]]
    means = scorer.posterior(near).mean
    lowest = near[int(means.argmin())]
    if means.min() < (chosen.full_loss or 0.0) and scorer.values([lowest])[0] > value_of(chosen):
        return "support"
    return " and ".join(problem.space.largest_of(chosen.architecture)) or "space"


# -- what the recommended network is compared with -------------------------------------------------


def differences_to(
    scorer: Scorer, chosen: Architecture, networks: Sequence[Architecture]
) -> dict[str, Difference]:
    """Of each network less the chosen one, by its hash."""
    # without cycles the order of trials is that of completion
    others = {network.hash: network for network in networks if network.hash != chosen.hash}
    ordered = [others[key] for key in sorted(others)]
    found: dict[str, Difference] = {chosen.hash: (0.0, 0.0, 0.5)}
    for start in range(0, len(ordered), TOGETHER):
        part = ordered[start : start + TOGETHER]
        joint = scorer.posterior([chosen, *part])
        sds = joint.sd_to(0)[1:].tolist()
        for network, mean, sd in zip(
            part, (joint.mean[1:] - joint.mean[0]).tolist(), sds, strict=True
        ):
            found[network.hash] = mean, sd, below_zero(mean, sd)
    return found


def below_zero(mean: float, sd: float) -> float:
    """Probability that a normal variable is below 0; of a constant 0, one half."""
    if sd > 1e-9:
        return float(ndtr(-mean / sd))
    return 0.5 * (mean < 0) + 0.5 * (mean <= 0)


def _as_good(
    problem: Problem, scorer: Scorer, stack: Architecture, loss: float
) -> Architecture | None:
    """The stack at the smallest width whose mean is not above a loss; None if there is none up to
    WIDER times its width, or the table does not answer for it."""
    wider = []
    for hidden in range(stack.hidden, int(WIDER * stack.hidden) + 1, WIDTH_STEP):
        try:
            network = dataclasses.replace(stack, hidden=hidden)
            problem.costs.latencies([network])
        except FlashnasError:  # the operators do not fit this width, or the table has no row
            continue
        wider.append(network)
    if not wider:
        return None
    means = scorer.posterior(wider).mean
    return next((network for network, mean in zip(wider, means, strict=True) if mean <= loss), None)


def published_models(problem: Problem) -> dict[str, Architecture]:
    """Published models with the vocabulary of the space, so that they can be compared."""
    space, networks = problem.space, {}
    model = space.model if isinstance(space, OperatorSpace) else space.any_network()
    for name in PUBLISHED_MODELS:
        network = Architecture.parse(preset_notations()[name])
        networks[name] = dataclasses.replace(network, vocab=model.vocab, tied=model.tied)
    return networks


def published_model(
    problem: Problem,
    scorer: Scorer,
    compared: Mapping[str, Difference],
    name: str,
    model: Architecture,
) -> PublishedModel:
    """A published model beside the chosen network."""
    difference, sd, probability = compared[model.hash]
    figures = scorer.figures(model)
    try:
        latency_ms = problem.costs.latencies([model])[0]
    except FlashnasError:  # the table has no row for it
        latency_ms = None
    return {
        "name": name,
        "latency_ms": latency_ms,
        "params": float(model.params),
        "difference": difference,
        "sd": sd,
        "probability": probability,
        "recall": figures["expected_recall"],
        "silence": figures["silence"],
    }
