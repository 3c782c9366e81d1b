"""The recorded answer of a search that ranks by full trainings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Pure(TypedDict, total=False):
    """The best pure stack, what the recommended network differs from it, and the probability that
    that is better."""

    label: str
    notation: str
    hash: str
    latency_ms: float
    difference: float
    sd: float
    probability: float


class Reasons(TypedDict, total=False):
    """The parts of the difference to the pure stack, in nats per token."""

    size: float
    shape: float
    mix: float
    training: float


class WithoutFloor(TypedDict, total=False):
    """The network that would be recommended without the floor for recall, if it is another one."""

    hash: str
    notation: str
    expected_recall: float
    difference: float
    sd: float


class ToChange(TypedDict, total=False):
    """The network that is the most likely to change the answer: `nats` by which its short loss
    would have to be lower than expected, and the probability of that."""

    hash: str
    notation: str
    nats: float
    usual_nats: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One network of the front beside the recommended one. difference, sd: expected full loss less
    that of the recommended network, nats per token. best: probability of the lowest full loss among
    all that the answer names. tied: it cannot be told from the recommended one."""

    hash: str
    difference: float
    sd: float
    best: float
    tied: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search recommends: a network, by its hash.

    standings: of all networks of the front, fastest first. baselines: of the pure stacks. cheapest:
    the fastest network that cannot be told from the recommended one. pure, reasons, without_floor,
    to_change: empty where there is nothing to say. min_recall: floor that the recommendation keeps,
    of full marks below a transformer; kept: whether it does. above_budget: networks whose latency
    may exceed the budget by its upper bound. before: notation of what published trainings alone
    recommend; same: whether the trainings left it as it is. extrapolated: the planned training is
    longer or shorter than publications' are.
    """

    recommended: str
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...] = ()
    cheapest: str
    pure: Pure = field(default_factory=Pure)
    reasons: Reasons = field(default_factory=Reasons)
    min_recall: float
    kept: bool
    without_floor: WithoutFloor = field(default_factory=WithoutFloor)
    above_budget: tuple[str, ...] = ()
    to_change: ToChange = field(default_factory=ToChange)
    before: str = ""
    same: bool = True
    trained: bool = True
    train_tokens: float
    extrapolated: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            ("pure", Pure),
            ("reasons", Reasons),
            ("without_floor", WithoutFloor),
            ("to_change", ToChange),
        ):
            entry = getattr(self, name)
            if missing := [key for key in kind.__annotations__ if entry and key not in entry]:
                raise ValueError(f"answer.{name} needs the key {missing[0]!r}")
        compared = [standing.hash for standing in self.standings]
        for name, key in (("recommended", self.recommended), ("cheapest", self.cheapest)):
            if key not in compared:
                raise ValueError(f"answer.{name} must be a network of the front; got {key!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in data.items()
        }

    @property
    def tied(self) -> tuple[str, ...]:
        """Networks that cannot be told from the recommended one, fastest first, without itself."""
        return tuple(
            standing.hash
            for standing in self.standings
            if standing.tied and standing.hash != self.recommended
        )
