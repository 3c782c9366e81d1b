"""The answer of a search that ranks by full trainings: which network to train, and how sure that
is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.base.errors import FlashnasError
from flashnas.evidence.full_loss import CHARGE, SHORT_WEIGHT, Prediction
from flashnas.runs.answer import (
    Answer,
    Experiment,
    FullTraining,
    KnownModel,
    Reasons,
    Rival,
    Standing,
    Support,
    ToChange,
)
from flashnas.runs.trial import Trial
from flashnas.study.explore import Explored
from flashnas.study.problem import Problem
from flashnas.study.scorer import EvidenceScorer
from flashnas.training.cost import FULL_UTILISATION, H100_FLOPS, full_training_flops

TOLD_APART = 0.8  # probability from which on a network counts as worse than the recommended one
KNOWN_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")
WIDER = 2.0  # times its width up to which a stack is looked at that makes up for a difference
WIDTH_STEP = 128
FULL_BUDGET = 0.97  # of a budget from which on it is what limits the network
TOKENS_EACH = 20  # of the experiment, for each parameter


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
        scorer: EvidenceScorer,
        trials: Sequence[Trial],
        networks: Mapping[str, Architecture],
        further: Sequence[Architecture],
    ) -> Compared:
        """further: networks that nothing was trained for, behind the trials."""
        # without cycles the order of trials is that of completion
        ordered = sorted({trial.hash: trial for trial in trials}.values(), key=lambda t: t.hash)
        prediction = scorer.posterior(
            [*(networks[trial.hash] for trial in ordered), *further],
            [*(trial.loss for trial in ordered), *(None for _ in further)],
        )
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


def answer_of(
    problem: Problem,
    expected: Explored,
    front: Sequence[Trial],
    baselines: Sequence[Trial],
    networks: Mapping[str, Architecture],
) -> Answer:
    """The answer that a front gives.

    Args:
        front: trials, fastest first.
        baselines: trials of the pure stacks.
        networks: of all trials, by hash.
    """
    scorer, config = problem.scorer, problem.config
    assert scorer is not None
    floor, budget_ms = config.recall_floor, config.budgets.get("latency_ms")
    known = _known_models(problem)
    compared = Compared.of(scorer, [*front, *baselines], networks, list(known.values()))
    keeping = [trial for trial in front if (trial.expected_recall or 0.0) >= floor]
    chosen, freest = min(keeping or front, key=value_of), min(front, key=value_of)
    free = {trial.hash for trial in keeping or front}
    standings = tuple(_standing(compared, trial, chosen, free) for trial in front)
    tied = [
        trial
        for trial, standing in zip(front, standings, strict=True)
        if standing.tied and trial.hash in free
    ]
    pure = min(baselines, key=value_of, default=None)
    attention = [
        trial
        for trial in baselines
        if {spec.kind for spec in networks[trial.hash].operators if spec.mixes_tokens} == {"a"}
    ]
    before = expected.networks[expected.best(floor)].notation
    free_difference, free_sd, _ = compared.difference(freest.hash, chosen.hash)
    network = networks[chosen.hash]
    return Answer(
        recommended=chosen.hash,
        standings=standings,
        baselines=tuple(_standing(compared, trial, chosen, free) for trial in baselines),
        cheapest=tied[0].hash,
        pure=Rival() if pure is None else _rival(problem, compared, chosen, pure, networks),
        transformer=_rival(problem, compared, chosen, min(attention, key=value_of), networks)
        if attention
        else Rival(),
        reasons=Reasons()
        if pure is None or pure.hash == chosen.hash
        else _reasons(scorer, chosen, pure, networks),
        known=tuple(
            _known_model(problem, compared, name, model, chosen) for name, model in known.items()
        ),
        support=None if pure is None else _support(network, networks[pure.hash]),
        training=_full_training(network, scorer.tokens),
        experiment=_experiment(scorer, compared, chosen, tied, networks),
        limit=_limit(problem, expected, chosen, network),
        min_recall=floor,
        kept=bool(keeping),
        keeps=1.0
        - below_zero((chosen.expected_recall or 0.0) - floor, chosen.expected_recall_sd or 0.0),
        without_floor={}
        if freest.hash == chosen.hash
        else {
            "hash": freest.hash,
            "notation": freest.notation,
            "expected_recall": freest.expected_recall or 0.0,
            "difference": free_difference,
            "sd": free_sd,
        },
        above_budget=tuple(
            trial.hash
            for trial in front
            if budget_ms is not None and trial.upper_ms is not None and trial.upper_ms > budget_ms
        ),
        to_change=_to_change(problem, expected, chosen, networks),
        before=before,
        same=before == chosen.notation,
        trained=problem.recipe is not None,
        train_tokens=scorer.tokens,
        extrapolated=scorer.extrapolated,
    )


def value_of(trial: Trial) -> float:
    """By which networks are ranked, in nats per token."""
    return (trial.full_loss or 0.0) + CHARGE * (trial.silence or 0.0)


def below_zero(mean: float, sd: float) -> float:
    """Probability that a normal variable is below 0; of a constant 0, one half."""
    if sd > 1e-9:
        return float(ndtr(-mean / sd))
    return 0.5 * (mean < 0) + 0.5 * (mean <= 0)


def _standing(compared: Compared, trial: Trial, chosen: Trial, free: set[str]) -> Standing:
    """free: hashes of the networks that may be recommended; another one may be better for sure."""
    difference, sd, better = compared.difference(trial.hash, chosen.hash)
    worse = 1.0 - better if trial.hash != chosen.hash else 0.5
    return Standing(
        hash=trial.hash,
        difference=difference,
        sd=sd,
        best=compared.best[trial.hash],
        tied=worse < TOLD_APART and (trial.hash in free or worse > 1 - TOLD_APART),
    )


# -- what the recommended network is compared with -------------------------------------------------


def _rival(
    problem: Problem,
    compared: Compared,
    chosen: Trial,
    rival: Trial,
    networks: Mapping[str, Architecture],
) -> Rival:
    difference, sd, probability = compared.difference(chosen.hash, rival.hash)
    equal = _as_good(problem, networks[rival.hash], chosen.full_loss or 0.0)
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


def _as_good(problem: Problem, stack: Architecture, loss: float) -> Architecture | None:
    """The stack at the smallest width whose mean is not above a loss; None if there is none up to
    WIDER times its width, or the table does not answer for it."""
    assert problem.scorer is not None
    wider = []
    for hidden in range(stack.hidden, int(WIDER * stack.hidden) + 1, WIDTH_STEP):
        try:
            network = dataclasses.replace(stack, hidden=hidden)
            problem.costs.latencies([network])
        except FlashnasError:  # the operators do not fit this width, or the table has no row
            continue
        wider.append(network)
    means = problem.scorer.posterior(wider).mean if wider else []
    return next((network for network, mean in zip(wider, means, strict=True) if mean <= loss), None)


def _known_models(problem: Problem) -> dict[str, Architecture]:
    """Published models with the vocabulary of the space, so that they can be compared."""
    vocab, tied = problem.space.model.vocab, problem.space.model.tied
    return {
        name: dataclasses.replace(presets()[name], vocab=vocab, tied=tied) for name in KNOWN_MODELS
    }


def _known_model(
    problem: Problem, compared: Compared, name: str, model: Architecture, chosen: Trial
) -> KnownModel:
    assert problem.scorer is not None
    difference, sd, probability = compared.difference(model.hash, chosen.hash)
    figures = problem.scorer.figures(model)
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


def _support(network: Architecture, pure: Architecture) -> Support | None:
    """None where no publication has both mixes in one group."""
    from flashnas.evidence.trainings import comparable, composition, read_published  # loads pandas

    mixes = composition(network.operators), composition(pure.operators)
    if mixes[0] == mixes[1]:
        return None
    rows, gaps, publications = read_published(), [], []
    for group in comparable(rows).values():
        ours = [rows[index] for index in group if composition(rows[index].specs) == mixes[0]]
        theirs = [rows[index] for index in group if composition(rows[index].specs) == mixes[1]]
        for row in ours:
            gaps += [row.nats - other.nats for other in theirs]
        if ours and theirs:
            publications.append(ours[0].source)
    if not gaps:
        return None
    better = sum(gap < 0 for gap in gaps)
    return {
        "pairs": len(gaps),
        "better": better,
        "publications": list(dict.fromkeys(publications)),
    }


def _reasons(
    scorer: EvidenceScorer, chosen: Trial, pure: Trial, networks: Mapping[str, Architecture]
) -> Reasons:
    both = [networks[chosen.hash], networks[pure.hash]]
    effects = scorer.short_effects(both, [chosen.loss, pure.loss])
    parts = scorer.model.parts_of(scorer.model.table(both, scorer.tokens, effects), 0, 1)
    shape = scorer.shape_part(both)
    return {
        "size": parts["size"] - shape,
        "shape": shape,
        "mix": parts["mix"],
        "training": parts["training"],
    }


# -- what it costs, what would settle it, what limits it -------------------------------------------


def _full_training(network: Architecture, tokens: float) -> FullTraining:
    flops = full_training_flops(network, tokens)
    return {
        "tokens": tokens,
        "flops": flops,
        "h100_hours": flops / (FULL_UTILISATION * H100_FLOPS) / 3600,
        "utilisation": FULL_UTILISATION,
    }


def _experiment(
    scorer: EvidenceScorer,
    compared: Compared,
    chosen: Trial,
    tied: Sequence[Trial],
    networks: Mapping[str, Architecture],
) -> Experiment:
    """Train the recommended network and its closest rival, TOKENS_EACH tokens for each parameter."""
    rivals = [trial for trial in tied if trial.hash != chosen.hash]
    if not rivals:
        return {}
    rival = max(rivals, key=lambda trial: compared.best[trial.hash])
    both = [networks[chosen.hash], networks[rival.hash]]
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


def _limit(problem: Problem, expected: Explored, chosen: Trial, network: Architecture) -> str:
    """What keeps the recommended network from being better."""
    assert problem.scorer is not None
    metrics = vars(chosen)
    for budget in problem.config.bounds:
        value = metrics.get(budget.metric)
        if value and budget.limit and FULL_BUDGET <= value / budget.limit <= 1 / FULL_BUDGET:
            return "budget"
    near = [expected.networks[index] for index in np.argsort(expected.value)[:200]]
    means = problem.scorer.posterior(near).mean
    if means.min() < (chosen.full_loss or 0.0) and problem.scorer.values(
        [near[int(means.argmin())]]
    )[0] > value_of(chosen):
        return "support"
    return "space"


def chances_to_change(
    scorer: EvidenceScorer, untrained: Sequence[Architecture], best: float
) -> np.ndarray:
    """Probability of each network that its short training lowers its value below `best` [N]."""
    steps = scorer.step_sds(untrained)
    gaps = scorer.values(untrained) - best
    return np.where(steps > 0, ndtr(-np.maximum(gaps, 0.0) / np.maximum(steps, 1e-12)), 0.0)


def _to_change(
    problem: Problem, expected: Explored, chosen: Trial, networks: Mapping[str, Architecture]
) -> ToChange:
    """The short training that is the most likely to change the answer."""
    scorer, floor = problem.scorer, problem.config.recall_floor
    assert scorer is not None
    if problem.recipe is None:
        return {}
    others = [
        network
        for index in expected.front(floor)
        if (network := expected.networks[index]).hash != chosen.hash
        and networks.get(network.hash) is None
    ]
    chances = chances_to_change(scorer, others, value_of(chosen))
    if not len(chances) or not chances.any():
        return {}
    place = int(np.argmax(chances))
    gap = float(scorer.values([others[place]])[0]) - value_of(chosen)
    return {
        "hash": others[place].hash,
        "notation": others[place].notation,
        "nats": max(gap / SHORT_WEIGHT, 0.0),
        "usual_nats": float(scorer.step_sds([others[place]])[0]) / SHORT_WEIGHT,
        "probability": float(chances[place]),
    }
