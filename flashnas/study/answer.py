"""The answer of a search that ranks by full trainings: which network to train, and how sure that
is."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.algorithms.trial import Trial
from flashnas.architecture import Architecture
from flashnas.base.text import range_of
from flashnas.loss.model import CHARGE
from flashnas.run_folder.answer import (
    Answer,
    Experiment,
    FullTraining,
    Standing,
    ToChange,
    WithoutFloor,
)
from flashnas.study.comparison import (
    Compared,
    below_zero,
    published_model,
    published_models,
    rival_of,
)
from flashnas.study.explore import Explored
from flashnas.study.problem import Problem
from flashnas.study.scorer import Scorer
from flashnas.training.cost import FULL_UTILISATION, H100_FLOPS, full_training_flops

DISTINCT = 0.8  # probability from which on a network counts as worse than another one
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
TOKENS_EACH = 20  # of the experiment, for each parameter


def answer_of(
    problem: Problem,
    expected: Explored,
    front: Sequence[Trial],
    baselines: Sequence[Trial],
    tried: Collection[str],
) -> Answer:
    """The answer that a front gives.

    Args:
        front: trials, fastest first.
        baselines: trials of the pure stacks.
        tried: hashes of all networks that the search has proposed.
    """
    scorer, config = problem.scorer, problem.config
    assert scorer is not None
    floor, budget_ms = config.recall_floor, config.budgets.get("latency_ms")
    models = published_models(problem)
    compared = Compared.of(scorer, [*front, *baselines], list(models.values()))
    keeping = [trial for trial in front if (trial.expected_recall or 0.0) >= floor]
    chosen = min(keeping or front, key=value_of)
    free = {trial.hash for trial in keeping or front}
    standings = tuple(_standing(compared, trial, chosen, free) for trial in front)
    tied = [
        trial
        for trial, standing in zip(front, standings, strict=True)
        if standing.tied and trial.hash in free
    ]
    before = expected.networks[expected.best(floor)].notation
    keeps = below_zero((chosen.expected_recall or 0.0) - floor, chosen.expected_recall_sd or 0.0)
    return Answer(
        recommended=chosen.hash,
        standings=standings,
        baselines=tuple(_standing(compared, trial, chosen, free) for trial in baselines),
        cheapest=tied[0].hash,
        **_stacks(problem, compared, chosen, baselines),
        published=tuple(
            published_model(problem, compared, name, model, chosen)
            for name, model in models.items()
        ),
        training=_full_training(chosen.architecture, scorer.tokens),
        experiment=_experiment(compared, chosen, tied),
        limit=_limit(problem, expected, chosen),
        min_recall=floor,
        kept=bool(keeping),
        keeps=1.0 - keeps,
        without_floor=_without_floor(compared, chosen, min(front, key=value_of)),
        above_budget=tuple(
            trial.hash
            for trial in front
            if budget_ms is not None and trial.upper_ms is not None and trial.upper_ms > budget_ms
        ),
        to_change=_to_change(problem, expected, chosen, tried),
        before=before,
        same=before == chosen.notation,
        trained=problem.recipe is not None,
        train_tokens=scorer.tokens,
        extrapolated=scorer.extrapolated,
    )


def _stacks(
    problem: Problem, compared: Compared, chosen: Trial, baselines: Sequence[Trial]
) -> dict[str, Any]:
    """The entries of the answer about the best pure stack and the best stack of attention."""
    assert problem.scorer is not None
    pure = min(baselines, key=value_of, default=None)
    if pure is None:
        return {}
    attention = [
        trial
        for trial in baselines
        if {spec.kind for spec in trial.architecture.operators if spec.mixes_tokens} == {"a"}
    ]
    found: dict[str, Any] = {
        "pure": rival_of(problem, compared, chosen, pure),
        "support": problem.scorer.support(chosen.architecture, pure.architecture),
    }
    if attention:
        best = min(attention, key=value_of)
        found["transformer"] = rival_of(problem, compared, chosen, best)
    if pure.hash != chosen.hash:
        both = [chosen.architecture, pure.architecture]
        found["reasons"] = problem.scorer.reasons(both, [chosen.loss, pure.loss])
    return found


def _without_floor(compared: Compared, chosen: Trial, best: Trial) -> WithoutFloor:
    """best: what would be recommended without the floor for recall."""
    if best.hash == chosen.hash:
        return {}
    difference, sd, _ = compared.difference(best.hash, chosen.hash)
    return {
        "hash": best.hash,
        "notation": best.notation,
        "expected_recall": best.expected_recall or 0.0,
        "difference": difference,
        "sd": sd,
    }


def value_of(trial: Trial) -> float:
    """By which networks are ranked, in nats per token."""
    return (trial.full_loss or 0.0) + CHARGE * (trial.silence or 0.0)


def _standing(compared: Compared, trial: Trial, chosen: Trial, free: set[str]) -> Standing:
    """free: hashes of the networks that may be recommended; another one may be better for sure."""
    difference, sd, better = compared.difference(trial.hash, chosen.hash)
    worse = 1.0 - better if trial.hash != chosen.hash else 0.5
    return Standing(
        hash=trial.hash,
        difference=difference,
        sd=sd,
        best=compared.best[trial.hash],
        tied=worse < DISTINCT and (trial.hash in free or worse > 1 - DISTINCT),
    )


# -- what it costs, what would settle it, what limits it -------------------------------------------


def _full_training(network: Architecture, tokens: float) -> FullTraining:
    flops = full_training_flops(network, tokens)
    return {
        "tokens": tokens,
        "flops": flops,
        "h100_hours": flops / (FULL_UTILISATION * H100_FLOPS) / 3600,
        "utilisation": FULL_UTILISATION,
    }


def _experiment(compared: Compared, chosen: Trial, tied: Sequence[Trial]) -> Experiment:
    """Train the recommended network and its closest rival, TOKENS_EACH tokens for each parameter."""
    rivals = [trial for trial in tied if trial.hash != chosen.hash]
    if not rivals:
        return {}
    rival = max(rivals, key=lambda trial: compared.best[trial.hash])
    both = [chosen.architecture, rival.architecture]
    tokens = float(TOKENS_EACH * max(network.params for network in both))
    flops = sum(full_training_flops(network, tokens) for network in both)
    mean, sd, _ = compared.difference(rival.hash, chosen.hash)
    noise = math.sqrt(2) * compared.prediction.noise
    spread = math.hypot(sd, noise)
    return {
        "hash": rival.hash,
        "notation": rival.notation,
        "tokens": tokens,
        "flops": flops,
        "h100_hours": flops / (FULL_UTILISATION * H100_FLOPS) / 3600,
        "probability": float(ndtr((-noise - mean) / spread) + ndtr((mean - noise) / spread)),
    }


def _limit(problem: Problem, expected: Explored, chosen: Trial) -> str:
    """What keeps the recommended network from being better; as of an Answer."""
    assert problem.scorer is not None
    metrics, config = vars(chosen), problem.config
    most = math.inf if config.params is None else range_of(config.params)[1]
    if (chosen.params or 0) >= FULL_BUDGET * most:
        return "params"
    for budget in config.bounds:
        value = metrics.get(budget.metric)
        if value and budget.limit and FULL_BUDGET <= value / budget.limit <= 1 / FULL_BUDGET:
            return "budget"
    near = [expected.networks[index] for index in np.argsort(expected.value)[:200]]
    means = problem.scorer.posterior(near).mean
    if means.min() < (chosen.full_loss or 0.0) and problem.scorer.values(
        [near[int(means.argmin())]]
    )[0] > value_of(chosen):
        return "support"
    return " and ".join(problem.space.largest_of(chosen.architecture)) or "space"


def chances_to_change(scorer: Scorer, untrained: Sequence[Architecture], best: float) -> np.ndarray:
    """Probability of each network that its short training lowers its value below `best` [N]."""
    steps = scorer.step_sds(untrained)
    gaps = scorer.values(untrained) - best
    return np.where(steps > 0, ndtr(-np.maximum(gaps, 0.0) / np.maximum(steps, 1e-12)), 0.0)


def _to_change(
    problem: Problem, expected: Explored, chosen: Trial, tried: Collection[str]
) -> ToChange:
    """The short training that is the most likely to change the answer."""
    scorer, floor = problem.scorer, problem.config.recall_floor
    assert scorer is not None
    if problem.recipe is None:
        return {}
    others = [
        network
        for index in expected.front(floor)
        if (network := expected.networks[index]).hash != chosen.hash and network.hash not in tried
    ]
    chances = chances_to_change(scorer, others, value_of(chosen))
    if not len(chances) or not chances.any():
        return {}
    index = int(np.argmax(chances))
    gap = float(scorer.values([others[index]])[0]) - value_of(chosen)
    return {
        "hash": others[index].hash,
        "notation": others[index].notation,
        "nats": max(gap, 0.0),
        "usual_nats": float(scorer.step_sds([others[index]])[0]),
        "probability": float(chances[index]),
    }
