"""The answer of a search that ranks by full trainings: which network to train, and how sure that
is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.evidence.full_loss import Prediction
from flashnas.runs.answer import Answer, Reasons, Standing, ToChange
from flashnas.runs.trial import Trial
from flashnas.study.foresight import BEYOND_SD, Foresight

TOLD_APART = 0.8  # probability from which on a network is told to be worse than the recommended one


def answer_of(
    foresight: Foresight,
    front: Sequence[Trial],
    baselines: Sequence[Trial],
    networks: Mapping[str, Architecture],
    *,
    min_recall: float,
    budget_ms: float | None,
    before: str,
    untrained: Sequence[Architecture] = (),
) -> Answer:
    """The answer that a front gives, its trials fastest first. baselines: trials of the pure
    stacks. before: notation of what published trainings alone recommend. untrained: networks of
    which a training might change the answer."""
    # without cycles their order is that of completion
    baselines = sorted(baselines, key=lambda trial: trial.hash)
    trials = sorted(
        {trial.hash: trial for trial in (*front, *baselines)}.values(), key=lambda trial: trial.hash
    )
    prediction = foresight.predict(
        [networks[trial.hash] for trial in trials], [trial.loss for trial in trials]
    )
    at = {trial.hash: place for place, trial in enumerate(trials, start=1)}
    values = {trial.hash: _value(trial) for trial in trials}
    keeping = [trial for trial in front if (trial.expected_recall or 0.0) >= min_recall]
    chosen = min(keeping or front, key=lambda trial: values[trial.hash])
    freest = min(front, key=lambda trial: values[trial.hash])
    places = list(at.values())
    best = dict(zip(places, prediction.best(places), strict=True))
    # without the floor, the chosen one has no better network: what is below it is only less certain
    free = {trial.hash for trial in (keeping or front)}
    standings, pure_standings = (
        tuple(_standing(prediction, at, trial, chosen, best, free) for trial in some)
        for some in (front, baselines)
    )
    tied = [
        trial
        for trial, standing in zip(front, standings, strict=True)
        if standing.tied and trial.hash in free
    ]
    pure = min(baselines, key=lambda trial: values[trial.hash], default=None)
    difference, sd = (
        (0.0, 0.0) if pure is None else prediction.difference(at[chosen.hash], at[pure.hash])
    )
    free_difference, free_sd = prediction.difference(at[freest.hash], at[chosen.hash])
    return Answer(
        recommended=chosen.hash,
        standings=standings,
        baselines=pure_standings,
        cheapest=tied[0].hash,
        min_recall=min_recall,
        pure={}
        if pure is None
        else {
            "label": pure.label,
            "notation": pure.notation,
            "hash": pure.hash,
            "latency_ms": pure.latency_ms or 0.0,
            "difference": difference,
            "sd": sd,
            "probability": _below(difference, sd),
        },
        reasons={}
        if pure is None or pure.hash == chosen.hash
        else _reasons(foresight, chosen, pure, networks),
        kept=bool(keeping),
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
        to_change=_to_change(foresight, chosen, values, untrained),
        before=before,
        same=not before or before == chosen.notation,
        trained=any(trial.state == "complete" for trial in front),
        train_tokens=foresight.tokens,
        extrapolated=foresight.extrapolated,
    )


def _value(trial: Trial) -> float:
    return (trial.full_loss or 0.0) + (trial.full_loss_sd or 0.0)


def _below(difference: float, sd: float) -> float:
    """Probability that it is below 0."""
    return (
        float(ndtr(-difference / sd))
        if sd > 1e-9
        else 0.5 * (difference < 0) + 0.5 * (difference <= 0)
    )


def _standing(
    prediction: Prediction,
    at: Mapping[str, int],
    trial: Trial,
    chosen: Trial,
    best: Mapping[int, float],
    free: Collection[str],
) -> Standing:
    """free: hashes of the networks that may be recommended; another one may be told to be
    better.
    """
    difference, sd = prediction.difference(at[trial.hash], at[chosen.hash])
    worse = _below(-difference, sd)
    return Standing(
        hash=trial.hash,
        difference=difference,
        sd=sd,
        best=float(best[at[trial.hash]]),
        tied=worse < TOLD_APART and (trial.hash in free or worse > 1 - TOLD_APART),
    )


def _reasons(
    foresight: Foresight, chosen: Trial, pure: Trial, networks: Mapping[str, Architecture]
) -> Reasons:
    both = [networks[chosen.hash], networks[pure.hash]]
    table = foresight.model.table(
        both,
        foresight.tokens,
        [
            foresight.beyond(network, trial.loss)
            for network, trial in zip(both, (chosen, pure), strict=True)
        ],
    )
    parts = foresight.model.parts_of(table, 0, 1)
    shape = foresight.shape_part(both)
    return {
        "size": parts["size"] - shape,
        "shape": shape,
        "mix": parts["mix"],
        "training": parts["training"],
    }


def _to_change(
    foresight: Foresight,
    chosen: Trial,
    values: Mapping[str, float],
    untrained: Sequence[Architecture],
) -> ToChange:
    others = [network for network in untrained if network.hash != chosen.hash]
    moves = foresight.moves(others)
    if not len(others) or not moves.any():
        return {}
    gaps = foresight.value(others) - values[chosen.hash]
    chances = ndtr(-np.maximum(gaps, 0.0) / np.maximum(moves, 1e-12))
    place = int(np.argmax(chances))
    kappa = foresight.model.coefficients()["beyond"][0]
    return {
        "hash": others[place].hash,
        "notation": others[place].notation,
        "nats": max(float(gaps[place]) / kappa, 0.0),
        "usual_nats": BEYOND_SD,
        "probability": float(chances[place]),
    }
