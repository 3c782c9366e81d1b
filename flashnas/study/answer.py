"""The answer of a search: which network to train, and how sure that is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.algorithms.trial import Trial
from flashnas.architecture import Architecture
from flashnas.base.text import range_of
from flashnas.loss.load import OWN
from flashnas.run_folder.recorded_answer import (
    Answer,
    Bought,
    Claims,
    FullTraining,
    Pilot,
    Standing,
)
from flashnas.study.comparison import Compared, published_model, published_models, rival_of
from flashnas.study.explore import Explored
from flashnas.study.problem import Problem
from flashnas.study.purchase import pilot
from flashnas.study.scorer import EvidenceScorer, Scorer, load_scorer
from flashnas.training.cost import FULL_UTILISATION, H100_FLOPS, full_training_flops

DISTINCT = 0.8  # probability from which on a network counts as worse than another one
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
NEAR = 200  # networks near the recommended one, of which the mean of one may be lower
PILOTS = 24  # networks near the recommended one that a pilot may be of


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
        [*scorer.own, *scorer.bought],
        [explored.networks[index] for index in explored.near(PILOTS)],
        scorer.tokens,
        reliability=scorer.model.spreads.reliability.get(OWN, 1.0),
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
