"""The recorded answer of a search that ranks by full trainings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypedDict, get_type_hints, is_typeddict


class Rival(TypedDict, total=False):
    """A stack within the budget that the recommended network is compared with: what that differs
    from it in nats per token, and the probability that it is better. `ms` and `params`: of the same
    stack at the smallest width that makes up for the difference; None where none up to twice its
    width does."""

    label: str
    notation: str
    hash: str
    latency_ms: float
    difference: float
    sd: float
    probability: float
    ms: float | None
    params: float | None


class PublishedModel(TypedDict):
    """A published model with the vocabulary of the space. difference, sd, probability: its expected
    full loss less that of the recommended network, and the probability that it is better; recall,
    silence: as of a trial. latency_ms: None where the table does not answer for it."""

    name: str
    latency_ms: float | None
    params: float
    difference: float
    sd: float
    probability: float
    recall: float | None
    silence: float


class FullTraining(TypedDict):
    """What the planned training costs, by `full_training_flops`."""

    tokens: float
    flops: float
    h100_hours: float
    utilisation: float


class Bought(TypedDict):
    """A purchase of trainings: the networks, what they cost, the nats by which the recommendation
    was expected to become better, and what was recommended before and after it."""

    networks: list[str]
    flops: float
    gain: float
    before: str
    after: str


class Pilot(TypedDict, total=False):
    """The next trainings that are worth buying: networks as they are trained, their parameters, the
    tokens of each, what all of them cost, and the nats by which the recommendation is expected to
    become better."""

    networks: list[str]
    params: list[float]
    tokens: float
    flops: float
    h100_hours: float
    gain: float


class Claims(TypedDict, total=False):
    """What publications say of a front that own trainings alone rank: the network that they would
    recommend, its expected full loss less that of the recommended one, and how many pairs of the
    front they order alike."""

    hash: str
    difference: float
    sd: float
    pairs: int
    alike: int


class Reasons(TypedDict, total=False):
    """The parts of the difference to the pure stack, in nats per token."""

    size: float
    shape: float
    mix: float


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
    the fastest network that cannot be told from the recommended one. pure: the best pure stack;
    transformer: the best stack of attention. reasons: for the difference to the pure stack.
    published: models of publications. training: the full one. pilot: the next trainings that are
    worth buying. claims: of a search without publications. These are empty where there is nothing
    to say. limit: what keeps the recommended network from being better: `budget`, `params`,
    `support`, the largest `width`, `depth` or `width and depth` of the space, or what else it
    holds, `space`. above_budget: networks whose latency may exceed the budget by its upper bound.
    bought: what the search trained. ranked_by: what the expected losses follow from, in words; a
    user's scorer by its name. looked_at: networks that were scored. min_recall: networks of
    which less is expected were left out. extrapolated: the planned training is longer or shorter
    than publications' are.
    """

    recommended: str
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...] = ()
    cheapest: str
    pure: Rival = field(default_factory=Rival)
    transformer: Rival = field(default_factory=Rival)
    reasons: Reasons = field(default_factory=Reasons)
    published: tuple[PublishedModel, ...] = ()
    training: FullTraining | None = None
    pilot: Pilot = field(default_factory=Pilot)
    claims: Claims = field(default_factory=Claims)
    limit: str = ""
    above_budget: tuple[str, ...] = ()
    bought: tuple[Bought, ...] = ()
    ranked_by: str = ""
    looked_at: int = 0
    min_recall: float
    train_tokens: float
    extrapolated: bool = False

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Answer).items():
            entry = getattr(self, name)
            keys = kind.__annotations__ if entry and is_typeddict(kind) else ()
            if missing := [key for key in keys if key not in entry]:
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
