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
    recall: float
    silence: float


class Support(TypedDict):
    """What publications say of the mixes of the recommended network and of the best pure stack:
    pairs of rows that have both, in these publications, and how many of the pairs find it better.
    """

    pairs: int
    better: int
    publications: list[str]


class FullTraining(TypedDict):
    """What the planned training costs, by `flashnas.training.cost`."""

    tokens: float
    flops: float
    h100_hours: float
    utilisation: float


class Experiment(TypedDict, total=False):
    """The training of two networks on fewer tokens that would settle the closest tie: the other
    network, what both trainings cost, and the probability that they differ by more than two
    trainings of the same network do."""

    hash: str
    notation: str
    tokens: float
    flops: float
    h100_hours: float
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
    the fastest network that cannot be told from the recommended one. pure: the best pure stack;
    transformer: the best stack of attention. reasons: for the difference to the pure stack. These,
    without_floor, to_change, support and experiment are empty where there is nothing to say.
    min_recall: floor that the recommendation keeps, of full marks below a transformer; kept:
    whether it does, which is so with `keeps`, a probability. published: models of publications.
    limit: what keeps the recommended network from being better: `budget`, `params`, `support`, the
    largest `width`, `depth` or `width and depth` of the space, or what else it holds, `space`.
    above_budget: networks whose latency may exceed the budget by its upper bound. before: notation of what
    published trainings alone recommend; same: whether the trainings left it as it is. extrapolated:
    the planned training is longer or shorter than publications' are.
    """

    recommended: str
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...] = ()
    cheapest: str
    pure: Rival = field(default_factory=Rival)
    transformer: Rival = field(default_factory=Rival)
    reasons: Reasons = field(default_factory=Reasons)
    published: tuple[PublishedModel, ...] = ()
    support: Support | None = None
    training: FullTraining | None = None
    experiment: Experiment = field(default_factory=Experiment)
    limit: str = ""
    min_recall: float
    kept: bool
    keeps: float = 1.0
    without_floor: WithoutFloor = field(default_factory=WithoutFloor)
    above_budget: tuple[str, ...] = ()
    to_change: ToChange = field(default_factory=ToChange)
    before: str = ""
    same: bool = True
    trained: bool = True
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
