"""The recorded answer of a search that ranks by full trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
