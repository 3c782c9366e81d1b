"""The answer of a search as its run folder holds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypedDict


class FamilyBest(TypedDict):
    """The best network of a family within the budget. difference, sd: expected full loss less that
    of the recommended network, in nats per token. best: probability of being the best of all
    families, where loss and milliseconds are uncertain together."""

    family: str
    notation: str
    hash: str
    difference: float
    sd: float
    best: float
    silence: float


class Wider(TypedDict):
    """The transformer at the smallest width that makes up for its difference to the recommended
    network."""

    latency_ms: float
    params: float


class PublishedModel(TypedDict):
    """A published model with the vocabulary of the space. difference, sd: its expected full loss less
    that of the recommended network; recall, silence: as of a trial. latency_ms: None where the table
    does not answer for it."""

    name: str
    latency_ms: float | None
    params: float
    difference: float
    sd: float
    recall: float | None
    silence: float


class Acquired(TypedDict):
    """Trainings of one decision: the networks, what they cost, the nats by which the recommendation
    was expected to become better, and what was recommended before and after it."""

    networks: list[str]
    flops: float
    gain: float
    before: str
    after: str


class NextTrainings(TypedDict):
    """The short trainings that are expected to gain most less their price: notations as they are
    trained, hashes of the networks that they stand for, tokens of each, and hours of all and their
    share of the full training. gain, price and the standard error of the gain, in nats per token;
    price_range: by this law of tokens and published ones. pays: whether the gain exceeds the
    price by twice its error."""

    networks: list[str]
    of: list[str]
    tokens: float
    hours: float
    share: float
    gain: float
    error: float
    price: float
    price_range: list[float]
    pays: bool


class WithoutOwn(TypedDict):
    """What published trainings alone recommend; difference, sd: as of a family."""

    notation: str
    hash: str
    difference: float
    sd: float


class TimedNetworks(TypedDict):
    """Observed times that corrected those of the table. program, networks: what was timed, by hashes.
    ratio: of the times to those of the table: mean, lowest, highest."""

    program: str
    networks: list[str]
    ratio: list[float]


class Before(TypedDict):
    """What the run recommended that is asked again: latency_ms as it said, and as it is `now`; None
    where the table does not answer for it any more. difference, sd: its expected full loss less that
    of the network that is recommended now."""

    notation: str
    latency_ms: float | None
    now: float | None
    difference: float
    sd: float


class Side(TypedDict):
    """A network without experts, or one with them; figures as of a trial. train_hours: of the planned
    training, as of an `Answer`."""

    notation: str
    latency_ms: float
    lower_ms: float
    upper_ms: float
    memory_gb: float
    params: float
    active_params: float
    train_hours: float


class DenseOrSparse(TypedDict):
    """The best network without experts and the best one with them within the limits;
    difference, sd: sparse less dense, in nats per token, at one latency."""

    dense: Side
    sparse: Side
    difference: float
    sd: float


class Against(Side):
    """A network beside another one. difference, sd: its expected full loss less that of the other one;
    probability: of being no higher; reasons: parts that add up to it. recall, outside: as of a trial.
    loads_in: names of programs; None of a model that is read for its sizes alone."""

    difference: float
    sd: float
    probability: float
    reasons: dict[str, float]
    recall: float | None
    recall_sd: float | None
    outside: str
    loads_in: list[str] | None
    throughput_tok_s: float


class AsGood(TypedDict):
    """The model, by the name that the search was given, that the recommended network is as good as;
    chosen: that network beside it; likely: the cheapest one that is as good with a probability of
    0.9 or more."""

    name: str
    model: Against
    chosen: Against
    likely: Against | None


class Reasons(TypedDict):
    """The parts of the difference of two networks, in nats per token."""

    size: float
    shape: float
    mix: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search recommends: a network, by its hash.

    tied: hashes of the networks of the front that may be as good, fastest first. families: the best
    network of each family that programs load, the best one first; the transformer is one of them.
    free_mix: the best mix that no program loads. wider: what the transformer needs to be as good;
    None where it is the best one, or not even WIDER times its width suffices. dense_or_sparse:
    whether experts pay, and up to where that holds. as_good: the recommended network beside the model
    of `as_good_as`. times: the observed ones. before: of the run that is asked again. Each of these is
    None where there is nothing to say.
    published: models of publications. train_tokens: of the planned training of the recommended
    network; train_hours: of one `train_device`, at `train_utilisation` of its FLOP/s and in texts of
    `train_context` tokens. limit: what keeps the recommended
    network from being better: the metric whose budget binds, such as `ttft_ms` or `params`, the
    `space params` of its file, `support`, the `hours` of the training, the largest `width`, `depth` or
    `width and depth` of the space, or what else it holds, `space`.
    trained: what the search trained, decision by decision. next_trainings: those that would pay most
    before the full one. without_own: what is recommended without the user's own trainings.
    ranked_by: what the expected losses follow from, in words; a user's scorer by its name.

    Example:
        >>> import flashnas as fn
        >>> run = fn.load_run("my_run")
        >>> run.answer.recommended == run.recommended.hash
        True
    """

    recommended: str
    tied: tuple[str, ...] = ()
    families: tuple[FamilyBest, ...] = ()
    free_mix: FamilyBest | None = None
    wider: Wider | None = None
    published: tuple[PublishedModel, ...] = ()
    train_hours: float | None = None
    train_device: str = ""
    train_utilisation: float = 0.0
    train_context: int = 0
    dense_or_sparse: DenseOrSparse | None = None
    as_good: AsGood | None = None
    times: TimedNetworks | None = None
    before: Before | None = None
    limit: str = ""
    trained: tuple[Acquired, ...] = ()
    next_trainings: NextTrainings | None = None
    without_own: WithoutOwn | None = None
    ranked_by: str = ""
    train_tokens: float

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
