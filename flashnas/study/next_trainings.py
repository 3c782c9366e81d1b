"""Which short trainings pay before the full one: those that gain more than they cost.

Gain and price have one currency, nats of the full training. The gain of a set of trainings is by how
much the recommended network is expected to be better for them (`Prospects`). Their price is what
the same hours would bring as further tokens of its full training.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.narrower import narrower
from flashnas.base.text import tokens_text
from flashnas.loss.composition import Law
from flashnas.loss.experts import log_granularity
from flashnas.loss.mix import bodies, body_sizes
from flashnas.loss.own import as_own
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.recorded_answer import NextTrainings, WithoutOwn
from flashnas.study.acquisition import (
    DRAWS,
    FRESH_DRAWS,
    FRESH_SEED,
    LEAST_GAIN,
    SEED,
    Prospects,
    by_value,
    identity,
    prospects_of,
)
from flashnas.study.comparison import differences_to
from flashnas.study.problem import Problem
from flashnas.study.scorer import EvidenceScorer, FullTraining, Scorer
from flashnas.study.trials import Trials
from flashnas.training.cost import BACKWARD

LEAST, MOST = 2, 6  # trainings of a set
CANDIDATES = 24  # of which one may be recommended
WIDTHS = (256, 512, 768, 1024, 1536, 2048)
TOKENS_EACH = (20, 60, 200)  # for each parameter of the first network
MOST_GAIN = 0.05  # nats; trainings of a higher price are looked at where nothing else is on offer
SURE = 2.0  # times its error that a gain must exceed its price by
Price = Callable[[Any], np.ndarray]  # of shares, as of `price_of`
LEVEL = "next trainings"  # whose losses compare
# B and beta of B / D^beta of published laws: arXiv 2203.15556, and the same data in 2404.10102
PUBLISHED_LAWS = ((410.7, 0.28), (2085.43, 0.3658))


def falls(law: Law, params: float, tokens: float, share: Any) -> np.ndarray:
    """By how much a loss falls by a law with so large a share of tokens more, an array or a number, in
    nats. params: what a network counts as, without embeddings."""
    longer = tokens * (1 + np.asarray(share))
    return np.asarray(law.by_tokens(params, tokens) - law.by_tokens(params, longer))


def price_of(scorer: EvidenceScorer, network: Architecture) -> Price:
    """What a share of the hours of all full trainings that are planned costs that of a network, in nats:
    L(D) - L(D (1 + share)); with own trainings, what tokens bring in these."""
    tokens = float(scorer.training.tokens_of([network])[0])
    law, brought = scorer.model.law, max(scorer.model.coefficients()["tokens"][0], 0.0)
    params = counted_params(law, network)
    return lambda share: brought * falls(law, params, tokens, share)


def price_of_flops(scorer: EvidenceScorer, network: Architecture) -> Price:
    """The same of so many FLOPs of short trainings."""
    training, price = scorer.training, price_of(scorer, network)
    sparse = network.active_params < network.params
    return lambda flops: price(
        training.share_of(network, training.short_hours(flops, sparse=sparse))
    )


def price_range(price: float, tokens: float, share: float) -> tuple[float, float]:
    """The lowest and the highest of this price and of those by published laws."""
    ends = tokens * np.array([1, 1 + share])
    prices = [float(-np.diff(b / ends**beta)[0]) for b, beta in PUBLISHED_LAWS]
    return min(price, *prices), max(price, *prices)


@dataclass(frozen=True)
class Choice:
    """A set of trainings. indices: of those on offer, in the order in which they were chosen. share:
    of the hours of the full training. error_nats: standard error of the gain, by its draws."""

    indices: tuple[int, ...]
    share: float
    gain_nats: float
    price_nats: float
    error_nats: float

    @property
    def net_nats(self) -> float:
        return self.gain_nats - self.price_nats

    @property
    def pays(self) -> bool:
        return self.net_nats > max(SURE * self.error_nats, LEAST_GAIN)


def best_choice(prospects: Prospects, shares: np.ndarray, price: Price) -> Choice:
    """Of two to six trainings the set of the largest gain minus price.

    Args:
        prospects: of the trainings on offer.
        shares: what each of them costs [M], as of `price_of`.
    """
    order = prospects.greedy(MOST, price(shares))
    counts = range(min(LEAST, len(order)), len(order) + 1)
    choices = [chosen_by(prospects, order[:count], shares, price) for count in counts]
    return max(choices, key=lambda choice: choice.net_nats)


def chosen_by(
    prospects: Prospects,
    chosen: Sequence[int],
    shares: np.ndarray,
    price: Price,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Choice:
    """A set with its gain, by so many draws. The best of many looks too good by those that chose it."""
    gains, share = prospects.gains(chosen, draws, seed), float(shares[list(chosen)].sum())
    error = float(gains.std() / math.sqrt(len(gains)))
    return Choice(tuple(chosen), share, float(gains.mean()), float(price(share)), error)


# -- what is on offer ------------------------------------------------------------------------------


def proposal(scorer: EvidenceScorer, candidates: Sequence[Architecture]) -> NextTrainings | None:
    """The short trainings that are expected to gain most less their price, of those on offer: two to
    six candidates, that which is recommended among them, at one width and on equally many tokens.
    None where nothing can be offered.

    Args:
        scorer: by which networks are ranked.
        candidates: the recommended one first; CANDIDATES of them count.
    """
    best, training = candidates[0], scorer.training
    networks = list(dict.fromkeys([best, *by_value(scorer, candidates[:CANDIDATES])]))
    price, done = price_of(scorer, best), set(map(identity, scorer.rows))
    found: Any = None
    for small, length in offers(networks):
        rows = [observed(network, length, at) for network, at in small.items()]
        rows = [row for row in rows if identity(row) not in done]
        hours = [short_hours(training, row) for row in rows]
        shares = training.share_of(best, np.array(hours))
        dear = price(np.sort(shares)[:LEAST].sum()) > MOST_GAIN
        if len(rows) < LEAST or (found is not None and dear):
            continue
        prospects = prospects_of(scorer, networks, rows)
        choice = best_choice(prospects, shares, price)
        if found is None or choice.net_nats > found[0].net_nats:
            found = choice, prospects, shares, rows, small
    if found is None:
        return None
    choice, prospects, shares, rows, small = found
    choice = chosen_by(prospects, choice.indices, shares, price, FRESH_DRAWS, FRESH_SEED)
    trainings = [rows[index] for index in choice.indices]
    tokens = float(training.tokens_of([best])[0])
    return {
        "networks": [row.network.notation for row in trainings],
        "of": [networks[small[row.network]].hash for row in trainings],
        "tokens": trainings[0].tokens,
        "hours": choice.share * training.count * training.hours_of(best),
        "share": choice.share,
        "gain": choice.gain_nats,
        "error": choice.error_nats,
        "price": choice.price_nats,
        "price_range": list(price_range(choice.price_nats, tokens, choice.share)),
        "pays": choice.pays,
    }


def short_hours(training: FullTraining, row: ObservedLoss) -> float:
    """Of the device of the full training, for a short one."""
    network = row.network
    assert network is not None
    return float(
        training.short_hours(
            (1 + BACKWARD) * row.tokens * network.flops_per_token(training.context),
            sparse=network.active_params < network.params,
        )
    )


def observed(network: Architecture, tokens: int, nats: float) -> ObservedLoss:
    """What is observed of a short training; all of them are of one level. nats do not count, and are
    different, because a group that repeats another one does not count, either."""
    group = group_of(network, tokens)
    row = ObservedLoss.of(network, nats=nats, tokens=float(tokens), group=group)
    return as_own([replace(row, level=LEVEL)])[0]


def group_of(network: Architecture, tokens: float) -> str:
    """Of the trainings that are alike, also in the table that is filled in."""
    return f"{network.hidden} wide, {tokens_text(tokens)} tokens"


def offers(networks: Sequence[Architecture]) -> Iterator[tuple[dict[Architecture, int], int]]:
    """Networks at a width, each with the index of the first one that it stands for, as far as their
    operators fit, and tokens; the first network fits."""
    for hidden in (*(width for width in WIDTHS if width < networks[0].hidden), networks[0].hidden):
        small: dict[Architecture, int] = {}
        for index, network in enumerate(networks):
            if (at_width := narrower(network, hidden)) is not None:
                small.setdefault(at_width, index)  # one training stands for all widths
        if 0 in small.values():
            params = body_params(next(iter(small)))
            for each in TOKENS_EACH:
                yield small, int(float(f"{each * params:.1g}"))


def body_params(network: Architecture) -> float:
    """Active parameters without embeddings."""
    return float(body_sizes(bodies([network]))[0][1])


def counted_params(law: Law, network: Architecture) -> float:
    """The same, with experts as many as the law counts."""
    body = bodies([network])
    params, active, _ = body_sizes(body).T
    by_count = law.gamma * np.log(params / active) + law.g * log_granularity(body)
    return float((active * np.exp(by_count))[0])


# -- for an answer ----------------------------------------------------------------------------------


def proposed(trials: Trials) -> NextTrainings | None:
    """Those that would pay most, where the loss of the full training is what ranks."""
    scorer = trials.scorer
    if trials.ranks_by != "value" or not isinstance(scorer, EvidenceScorer):
        return None
    return proposal(scorer, [trials.networks[index] for index in trials.candidates(CANDIDATES)])


def published_alone(scorer: Scorer) -> EvidenceScorer | None:
    """The scorer without one's own trainings; None where there are none, or nothing else."""
    if not isinstance(scorer, EvidenceScorer) or not scorer.published or not scorer.own:
        return None
    return dataclasses.replace(scorer, model=scorer.publications, own=(), trained=())


def without_own(problem: Problem, trials: Trials, chosen: Architecture) -> WithoutOwn | None:
    """What published trainings alone recommend, by the same rule, where there are own ones as well."""
    assert trials.scorer is not None
    best = problem.without_own
    if problem.aim is None and (bare := published_alone(trials.scorer)):
        best = trials.networks[trials.simplest(trials.ranked, bare.values(trials.networks))]
    if best is None:
        return None
    difference, sd = differences_to(trials.scorer, chosen, [best])[best.hash]
    return {"notation": best.notation, "hash": best.hash, "difference": difference, "sd": sd}
