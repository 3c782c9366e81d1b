"""What a recommended network is compared with: its rivals, published models, and what publications
say of its mix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtr

from flashnas.algorithms.trial import Trial
from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.base.errors import FlashnasError
from flashnas.loss.prediction import Prediction
from flashnas.run_folder.recorded_answer import PublishedModel, Rival
from flashnas.space import OperatorSpace
from flashnas.study.problem import Problem
from flashnas.study.scorer import Scorer

PUBLISHED_MODELS = ("Nemotron-Flash-1B", "Llama-3.2-1B", "LFM2-1.2B", "Qwen3-0.6B", "Qwen3-1.7B")
WIDER = 2.0  # times its width up to which a stack is looked at that makes up for a difference
WIDTH_STEP = 128


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
    model = problem.space.model
    return {
        name: dataclasses.replace(presets()[name], vocab=model.vocab, tied=model.tied)
        for name in PUBLISHED_MODELS
    }


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
