"""The answer of a search that ranks by full trainings: which network to train, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.evidence.full_loss import Prediction
from flashnas.study.foresight import BEYOND_SD, Foresight
from flashnas.study.trial import Trial

TOLD_APART = 0.8     # probability from which on a network is told to be worse than the recommended one
# what the entries of an answer hold, where they are not empty
ENTRIES: dict[str, dict[str, type]] = {
    "pure": {"label": str, "notation": str, "hash": str, "latency_ms": float, "difference": float, "sd": float,
             "probability": float},
    "reasons": dict.fromkeys(("size", "shape", "mix", "training"), float),
    "without_floor": {"hash": str, "notation": str, "expected_recall": float, "difference": float, "sd": float},
    "to_change": {"hash": str, "notation": str, "nats": float, "usual_nats": float, "probability": float}}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One network of the front beside the recommended one.

    difference, sd: expected full loss less that of the recommended network, nats per token. best: probability of the
    lowest full loss among all that the answer names. tied: it cannot be told from the recommended one.
    """

    hash: str
    difference: float
    sd: float
    best: float
    tied: bool

    @classmethod
    def from_dict(cls, data: Any) -> Standing:
        """Raises ValueError naming what is missing or wrong."""
        return cls(**_checked(cls, data, "standings"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search recommends.

    Attributes:
        recommended: hash of the network.
        standings: of all networks of the front, fastest first.
        baselines: of the pure stacks.
        cheapest: hash of the fastest network that cannot be told from the recommended one.
        pure: the best pure stack: label, notation, hash, latency_ms; `difference` of the recommended network to it with
            `sd`, and `probability` that the recommended one is better. Empty without one.
        reasons: that difference by size, shape, mix and own training; they add up to it.
        min_recall: floor that the recommendation keeps, of full marks below a transformer; kept: whether it does.
        without_floor: the network that would be recommended without the floor, if it is another one: hash, notation,
            expected_recall, and its difference with sd. Empty otherwise.
        above_budget: hashes of networks whose latency may exceed the budget by its upper bound.
        to_change: what a short training would have to show to change the answer: hash and notation of the network that
            is the most likely to do so, `nats` by which its short loss would have to be lower than expected, and
            `probability` of that. Empty where nothing could.
        before: notation of the network that published trainings alone recommend, before any training; same: whether the
            trainings left it as it is.
        trained: False if nothing was trained.
        train_tokens: of the planned training; extrapolated: it is longer or shorter than publications' are.
    """

    recommended: str
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...] = ()
    cheapest: str
    pure: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, float] = field(default_factory=dict)
    min_recall: float
    kept: bool
    without_floor: Mapping[str, Any] = field(default_factory=dict)
    above_budget: tuple[str, ...] = ()
    to_change: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    same: bool = True
    trained: bool = True
    train_tokens: float
    extrapolated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """YAML- and JSON-ready."""
        data = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    @classmethod
    def from_dict(cls, data: Any) -> Answer:
        """Raises ValueError naming what is missing or wrong."""
        values = _checked(cls, data, "answer")
        for name, keys in ENTRIES.items():
            entry = values.get(name) or {}
            for key, kind in keys.items() if entry else ():
                _check(entry.get(key), kind, f"{name}.{key}")
        for name in ("standings", "baselines"):
            values[name] = tuple(Standing.from_dict(entry) for entry in values.get(name, ()))
        return cls(**{**values, "above_budget": tuple(map(str, values.get("above_budget", ())))})

    @property
    def tied(self) -> tuple[str, ...]:
        """Hashes of the networks that cannot be told from the recommended one, fastest first, without itself."""
        return tuple(standing.hash for standing in self.standings
                     if standing.tied and standing.hash != self.recommended)


def answer_of(foresight: Foresight, front: Sequence[Trial], baselines: Sequence[Trial],
              networks: Mapping[str, Architecture], *, min_recall: float, budget_ms: float | None, before: str,
              untrained: Sequence[Architecture] = ()) -> Answer:
    """The answer that a front gives.

    Args:
        foresight: of the search.
        front: its trials, fastest first.
        baselines: trials of the pure stacks.
        networks: by hash.
        min_recall: floor that the recommendation keeps.
        budget_ms: limit on the latency, or None.
        before: notation of what published trainings alone recommend.
        untrained: networks of which a training might change the answer.
    """
    baselines = sorted(baselines, key=lambda trial: trial.hash)  # without cycles their order is that of completion
    trials = sorted({trial.hash: trial for trial in (*front, *baselines)}.values(), key=lambda trial: trial.hash)
    prediction = foresight.predict([networks[trial.hash] for trial in trials], [trial.loss for trial in trials])
    at = {trial.hash: place for place, trial in enumerate(trials, start=1)}
    values = {trial.hash: _value(trial) for trial in trials}
    keeping = [trial for trial in front if (trial.expected_recall or 0.0) >= min_recall]
    chosen = min(keeping or front, key=lambda trial: values[trial.hash])
    freest = min(front, key=lambda trial: values[trial.hash])
    places = list(at.values())
    best = dict(zip(places, prediction.best(places), strict=True))
    standings, pure_standings = (tuple(_standing(prediction, at, trial, chosen, best) for trial in some)
                                 for some in (front, baselines))
    tied = [trial for trial, standing in zip(front, standings, strict=True) if standing.tied
            and (not keeping or trial in keeping)]
    pure = min(baselines, key=lambda trial: values[trial.hash], default=None)
    difference, sd = (0.0, 0.0) if pure is None else prediction.difference(at[chosen.hash], at[pure.hash])
    return Answer(
        recommended=chosen.hash, standings=standings, baselines=pure_standings, cheapest=tied[0].hash,
        min_recall=min_recall,
        pure={} if pure is None else {
            "label": pure.label, "notation": pure.notation, "hash": pure.hash, "latency_ms": pure.latency_ms,
            "difference": difference, "sd": sd, "probability": _below(difference, sd)},
        reasons={} if pure is None or pure.hash == chosen.hash else _reasons(foresight, chosen, pure, networks),
        kept=bool(keeping), without_floor={} if freest.hash == chosen.hash else {
            "hash": freest.hash, "notation": freest.notation, "expected_recall": freest.expected_recall,
            **dict(zip(("difference", "sd"), prediction.difference(at[freest.hash], at[chosen.hash]), strict=True))},
        above_budget=tuple(trial.hash for trial in front if budget_ms is not None and trial.upper_ms is not None
                           and trial.upper_ms > budget_ms),
        to_change=_to_change(foresight, chosen, values, untrained), before=before,
        same=not before or before == chosen.notation, trained=any(trial.state == "complete" for trial in front),
        train_tokens=foresight.tokens, extrapolated=foresight.extrapolated)


def _value(trial: Trial) -> float:
    """By which networks are ranked."""
    return (trial.full_loss or 0.0) + (trial.full_loss_sd or 0.0)


def _below(difference: float, sd: float) -> float:
    """Probability that a difference is below 0."""
    return float(ndtr(-difference / sd)) if sd > 1e-9 else 0.5 * (difference < 0) + 0.5 * (difference <= 0)


def _standing(prediction: Prediction, at: Mapping[str, int], trial: Trial, chosen: Trial,
              best: Mapping[int, float]) -> Standing:
    difference, sd = prediction.difference(at[trial.hash], at[chosen.hash])
    return Standing(hash=trial.hash, difference=difference, sd=sd, best=float(best[at[trial.hash]]),
                    tied=_below(-difference, sd) < TOLD_APART)


def _reasons(foresight: Foresight, chosen: Trial, pure: Trial, networks: Mapping[str, Architecture]
             ) -> dict[str, float]:
    """The difference of two networks by its reasons."""
    both = [networks[chosen.hash], networks[pure.hash]]
    table = foresight.model.table(both, foresight.tokens, [
        foresight.beyond(network, trial.loss) for network, trial in zip(both, (chosen, pure), strict=True)])
    found = foresight.model.parts_of(table, 0, 1)
    shape = foresight.shape_part(both)
    return {"size": found["size"] - shape, "shape": shape, "mix": found["mix"], "training": found["training"]}


def _to_change(foresight: Foresight, chosen: Trial, values: Mapping[str, float],
               untrained: Sequence[Architecture]) -> dict[str, Any]:
    """The network whose training is the most likely to change the answer."""
    others = [network for network in untrained if network.hash != chosen.hash]
    moves = foresight.moves(others)
    if not len(others) or not moves.any():
        return {}
    mean, sd = foresight.expected(others)
    gaps = mean + sd - values[chosen.hash]
    chances = ndtr(-np.maximum(gaps, 0.0) / np.maximum(moves, 1e-12))
    place = int(np.argmax(chances))
    kappa = foresight.model.coefficients()["beyond"][0]
    return {"hash": others[place].hash, "notation": others[place].notation,
            "nats": max(float(gaps[place]) / kappa, 0.0), "usual_nats": BEYOND_SD,
            "probability": float(chances[place])}


def _checked(cls: type, data: Any, place: str) -> dict[str, Any]:
    """The fields of a dataclass from a mapping; raises ValueError for a missing one or another type."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{place} must hold mappings; got {data!r:.60}")
    kinds = {"str": str, "float": float, "bool": bool}
    for item in dataclasses.fields(cls):
        if item.name in data:
            text = str(item.type)
            _check(data[item.name], kinds.get(text) or (list if text.startswith("tuple") else dict), item.name)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{item.name} is missing")
    return {item.name: data[item.name] for item in dataclasses.fields(cls) if item.name in data}


def _check(value: Any, kind: type, name: str) -> None:
    words = {str: "text", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}[kind]
    number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if not (number if kind is float else isinstance(value, kind)):
        raise ValueError(f"{name} must be {words}; got {value!r:.60}")
