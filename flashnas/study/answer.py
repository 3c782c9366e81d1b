"""The answer of a search: which network to train, how sure that is, and what it is compared with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.algorithms.trial import Trial
from flashnas.architecture import Architecture
from flashnas.architecture.notation import preset_notations
from flashnas.base.errors import FlashnasError
from flashnas.base.text import range_of
from flashnas.loss.prediction import Prediction
from flashnas.run_folder.recorded_run import (
    Answer,
    Bought,
    Claims,
    FullTraining,
    Pilot,
    PublishedModel,
    Rival,
    Standing,
)
from flashnas.space import OperatorSpace
from flashnas.study.explore import Explored
from flashnas.study.problem import Problem
from flashnas.study.purchase import FULL_UTILISATION, full_training_flops, pilot
from flashnas.study.scorer import EvidenceScorer, Scorer, load_scorer
from flashnas.training.cost import H100_FLOPS

DISTINCT = 0.8  # probability from which on a network counts as worse than another one
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
NEAR = 200  # networks near the recommended one, of which the mean of one may be lower
PILOTS = 16  # networks near the recommended one that a pilot may be of
PUBLISHED_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")
WIDER = 2.0  # times its width up to which a stack is looked at that makes up for a difference
WIDTH_STEP = 128


def answer_of(
    problem: Problem,
    scorer: Scorer,
    explored: Explored,
    front: Sequence[Trial],
    baselines: Sequence[Trial],
    purchases: Sequence[Bought],
) -> Answer:
    """The answer that a front gives.

    Args:
        scorer: with all that was observed.
        explored: the networks of the space, by that scorer.
        front: trials, fastest first.
        baselines: trials of the pure stacks.
        purchases: what the search trained.
    """
    budget_ms = problem.config.budgets.get("latency_ms")
    models = published_models(problem)
    compared = Compared.of(scorer, [*front, *baselines], list(models.values()))
    chosen = min(front, key=value_of)
    standings = tuple(_standing(compared, trial, chosen) for trial in front)
    return Answer(
        recommended=chosen.hash,
        standings=standings,
        baselines=tuple(_standing(compared, trial, chosen) for trial in baselines),
        cheapest=next(standing.hash for standing in standings if standing.tied),
        **_stacks(problem, scorer, compared, chosen, baselines),
        published=tuple(
            published_model(problem, scorer, compared, name, model, chosen)
            for name, model in models.items()
        ),
        training=_full_training(chosen.architecture, scorer.tokens),
        pilot=_pilot(scorer, explored),
        claims=_claims(scorer, front, chosen),
        limit=_limit(problem, scorer, explored, chosen),
        above_budget=tuple(
            trial.hash
            for trial in front
            if budget_ms is not None and trial.upper_ms is not None and trial.upper_ms > budget_ms
        ),
        bought=tuple(purchases),
        ranked_by=scorer.ranked_by
        if isinstance(scorer, EvidenceScorer)
        else f"scorer {type(scorer).__name__}",
        looked_at=explored.tried,
        min_recall=problem.min_recall,
        train_tokens=scorer.tokens,
        extrapolated=scorer.extrapolated,
    )


def value_of(trial: Trial) -> float:
    """By which networks are ranked, in nats per token."""
    assert trial.value is not None
    return trial.value


def _standing(compared: Compared, trial: Trial, chosen: Trial) -> Standing:
    difference, sd, better = compared.difference(trial.hash, chosen.hash)
    return Standing(
        hash=trial.hash,
        difference=difference,
        sd=sd,
        best=compared.best[trial.hash],
        tied=trial.hash == chosen.hash or 1.0 - better < DISTINCT,
    )


def _stacks(
    problem: Problem,
    scorer: Scorer,
    compared: Compared,
    chosen: Trial,
    baselines: Sequence[Trial],
) -> dict[str, Any]:
    """The entries of the answer about the best pure stack and the best stack of attention."""
    pure = min(baselines, key=value_of, default=None)
    if pure is None:
        return {}
    attention = [
        trial
        for trial in baselines
        if {spec.kind for spec in trial.architecture.operators if spec.mixes_tokens} == {"a"}
    ]
    found: dict[str, Any] = {"pure": rival_of(problem, scorer, compared, chosen, pure)}
    if attention:
        best = min(attention, key=value_of)
        found["transformer"] = rival_of(problem, scorer, compared, chosen, best)
    if pure.hash != chosen.hash:
        found["reasons"] = scorer.reasons([chosen.architecture, pure.architecture])
    return found


def _full_training(network: Architecture, tokens: float) -> FullTraining:
    flops = full_training_flops(network, tokens)
    return {
        "tokens": tokens,
        "flops": flops,
        "h100_hours": _h100_hours(flops),
        "utilisation": FULL_UTILISATION,
    }


def _h100_hours(flops: float) -> float:
    return flops / (FULL_UTILISATION * H100_FLOPS) / 3600


def _pilot(scorer: Scorer, explored: Explored) -> Pilot:
    """The next trainings that are worth buying."""
    if not isinstance(scorer, EvidenceScorer) or not scorer.published:
        return {}
    found = pilot(
        scorer.publications,
        scorer.rows,
        explored.candidates(PILOTS),
        scorer.tokens,
        reliability=scorer.reliability,
    )
    if found is None:
        return {}
    return {
        "networks": [network.notation for network in found.networks],
        "params": [float(network.params) for network in found.networks],
        "tokens": found.tokens,
        "flops": found.flops,
        "h100_hours": _h100_hours(found.flops),
        "gain": found.gain_nats,
    }


def _claims(scorer: Scorer, front: Sequence[Trial], chosen: Trial) -> Claims:
    """What publications say of a front that own trainings alone rank."""
    if not isinstance(scorer, EvidenceScorer) or scorer.published:
        return {}
    publications = load_scorer(None, scorer.tokens, lambda _: None)
    networks: list[Architecture] = [trial.architecture for trial in front]
    values = publications.values(networks)
    best, own = int(np.argmin(values)), [value_of(trial) for trial in front]
    difference, sd = publications.posterior(networks).difference(best, front.index(chosen))
    pairs = list(itertools.combinations(range(len(front)), 2))
    alike = sum((values[i] < values[j]) == (own[i] < own[j]) for i, j in pairs)
    return {
        "hash": front[best].hash,
        "difference": difference,
        "sd": sd,
        "pairs": len(pairs),
        "alike": int(alike),
    }


def _limit(problem: Problem, scorer: Scorer, explored: Explored, chosen: Trial) -> str:
    """What keeps the recommended network from being better; as of an Answer."""
    metrics, config = vars(chosen), problem.config
    most = math.inf if config.params is None else range_of(config.params)[1]
    if (chosen.params or 0) >= FULL_BUDGET * most:
        return "params"
    for budget in config.bounds:
        value = metrics.get(budget.metric)
        if value and budget.limit and FULL_BUDGET <= value / budget.limit <= 1 / FULL_BUDGET:
            return "budget"
    near = [explored.networks[index] for index in np.argsort(explored.value)[:NEAR]]
    means = scorer.posterior(near).mean
    lowest = near[int(means.argmin())]
    if means.min() < (chosen.full_loss or 0.0) and scorer.values([lowest])[0] > value_of(chosen):
        return "support"
    return " and ".join(problem.space.largest_of(chosen.architecture)) or "space"


# -- what the recommended network is compared with -------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Networks with one posterior. at: index by hash. best: probability of the lowest loss, by
    hash, of those on the front and the baselines."""

    prediction: Prediction
    at: Mapping[str, int]
    best: Mapping[str, float]

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        trials: Sequence[Trial],
        further: Sequence[Architecture],
    ) -> Compared:
        """further: networks that nothing was trained for, behind the trials."""
        # without cycles the order of trials is that of completion
        ordered = sorted({trial.hash: trial for trial in trials}.values(), key=lambda t: t.hash)
        prediction = scorer.posterior([*(trial.architecture for trial in ordered), *further])
        hashes = [*(trial.hash for trial in ordered), *(network.hash for network in further)]
        best = prediction.best(range(len(ordered)))
        return cls(
            prediction,
            {key: index for index, key in reversed(list(enumerate(hashes)))},
            dict(zip(hashes, map(float, best), strict=False)),
        )

    def difference(self, one: str, other: str) -> tuple[float, float, float]:
        """Of the network with hash `one` less the other: mean, standard deviation, and the
        probability that it is below 0."""
        mean, sd = self.prediction.difference(self.at[one], self.at[other])
        return mean, sd, below_zero(mean, sd)


def below_zero(mean: float, sd: float) -> float:
    """Probability that a normal variable is below 0; of a constant 0, one half."""
    if sd > 1e-9:
        return float(ndtr(-mean / sd))
    return 0.5 * (mean < 0) + 0.5 * (mean <= 0)


def rival_of(
    problem: Problem, scorer: Scorer, compared: Compared, chosen: Trial, rival: Trial
) -> Rival:
    """What the chosen network gains over a stack, and what that stack needs to make up for it."""
    difference, sd, probability = compared.difference(chosen.hash, rival.hash)
    equal = _as_good(problem, scorer, rival.architecture, chosen.full_loss or 0.0)
    return {
        "label": rival.label,
        "notation": rival.notation,
        "hash": rival.hash,
        "latency_ms": rival.latency_ms or 0.0,
        "difference": difference,
        "sd": sd,
        "probability": probability,
        "ms": None if equal is None else problem.costs.latencies([equal])[0],
        "params": None if equal is None else float(equal.params),
    }


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
    assert isinstance(problem.space, OperatorSpace)
    model, networks = problem.space.model, {}
    for name in PUBLISHED_MODELS:
        network = Architecture.parse(preset_notations()[name])
        networks[name] = dataclasses.replace(network, vocab=model.vocab, tied=model.tied)
    return networks


def published_model(
    problem: Problem,
    scorer: Scorer,
    compared: Compared,
    name: str,
    model: Architecture,
    chosen: Trial,
) -> PublishedModel:
    """A published model beside the chosen network."""
    difference, sd, probability = compared.difference(model.hash, chosen.hash)
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
