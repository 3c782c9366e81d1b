"""What short trainings cost the full one, and which of them are proposed."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem_of

from flashnas.architecture import Architecture
from flashnas.architecture.narrower import narrower
from flashnas.loss.load import loss_model
from flashnas.loss.own import as_own
from flashnas.observations.losses import ObservedLoss
from flashnas.observations.read_losses import read_published
from flashnas.study import next_trainings
from flashnas.study.loop import search
from flashnas.study.next_trainings import LEAST, MOST, falls, price_range, proposal, without_own
from flashnas.study.scorer import FullTraining, load_scorer

NETWORKS = [
    Architecture.parse(f"2048: {text}")
    for text in (
        "24x(a(qk_norm=true) f)",
        "24x(m2 f)",
        "6x(m2 f m2 f m2 f a f)",
        "6x(gd f gd f gd f a(qk_norm=true) f)",
        "6x(kda f kda f kda f a(qk_norm=true) f)",
        "6x(conv f conv f conv f a(qk_norm=true) f)",
    )
]
TOKENS = 1e11
LAW = loss_model().law


@functools.cache
def scorer(tokens=TOKENS):
    return load_scorer(None, tokens)


@functools.cache
def found(tokens=TOKENS):
    return proposal(scorer(tokens), best_first(NETWORKS))


def best_first(networks):
    values = scorer().values(networks)
    return [networks[int(np.argmin(values))], *networks]


# -- the price -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "lengths"), [("47m", (30, 50)), ("302m", (12, 20)), ("1.7b", (30, 50))]
)
def test_the_price_of_a_share_is_what_as_many_tokens_more_brought(size, lengths):
    """In published trainings of one network on two numbers of tokens, to the factor by which what
    tokens bring differs between publications."""
    rows = [row for row in read_published() if f"_{size}_" in row.group]
    short, long = ([row for row in rows if row.group.endswith(f"_{n}b")] for n in lengths)
    fell = np.mean([row.nats for row in short]) - np.mean([row.nats for row in long])
    embedding = short[0].vocab * short[0].hidden
    price = falls(LAW, short[0].params - embedding, lengths[0] * 1e9, lengths[1] / lengths[0] - 1)
    assert abs(np.log(float(price) / fell)) < 0.4


@given(st.floats(7e9, 1e13), st.floats(1e-4, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_price_is_less_than_in_proportion_and_falls_with_the_length(tokens, share):
    price, longer = (functools.partial(falls, LAW, 1e9, number) for number in (tokens, 2 * tokens))
    assert 0 == float(price(0.0)) < float(price(share)) <= 2 * float(price(share / 2)) + 1e-12
    assert float(longer(share)) < float(price(share))
    low, high = price_range(float(price(share)), tokens, share)
    assert low <= float(price(share)) <= high


def test_published_laws_give_the_slopes_that_are_stated():
    """For each e-fold of tokens: 0.116 nats at 50B and 0.033 at 4.5T by 2203.15556, 0.07 and 0.02 by
    2404.10102 at 100B and 4.5T."""
    share = np.expm1(1e-3)
    _, high = price_range(0.0, 4.5e12, share)
    assert high / 1e-3 == pytest.approx(0.033, abs=0.001)
    hoffmann, besiroglu = (
        [b * beta * tokens**-beta for tokens in (5e10, 1e11, 4.5e12)]
        for b, beta in next_trainings.PUBLISHED_LAWS
    )
    assert hoffmann == pytest.approx([0.116, 0.096, 0.033], abs=0.001)
    assert besiroglu[1:] == pytest.approx([0.07, 0.02], abs=0.003)


@pytest.mark.parametrize("times", [None, 1.8])
@pytest.mark.parametrize("network", [NETWORKS[0], Architecture.parse("1024: 12x(a moe)")])
def test_the_price_is_what_the_model_expects_of_as_many_tokens_more(network, times):
    """Also of experts, and where own trainings say that tokens bring another amount."""
    rows = ()
    if times:
        lengths = (1e10, 2e10, 5e10)
        rows = as_own(
            [
                ObservedLoss.of(
                    Architecture.parse("1024: 12x(a f)"),
                    nats=3 + times * float(LAW.by_tokens(151e6, tokens)),
                    tokens=tokens,
                    group="ladder",
                )
                for tokens in lengths
            ]
        )
    of_own = load_scorer(None, TOKENS, known=rows)
    means = of_own.model.mean(of_own.model.table([network] * 2, np.array([TOKENS, 1.1 * TOKENS])))
    price = float(next_trainings.price_of(of_own, network)(0.1))
    assert price == pytest.approx(means[0] - means[1], rel=1e-6)
    assert (of_own.model.coefficients()["tokens"][0] > 1.5) == bool(times)


# -- what is proposed ------------------------------------------------------------------------------


def test_the_recommended_network_is_trained_narrower_beside_others():
    best = NETWORKS[int(np.argmin(scorer().values(NETWORKS)))]
    assert best.hash in found()["of"]
    assert LEAST <= len(found()["networks"]) <= MOST
    of = {network.hash: network for network in NETWORKS}
    for network, key in zip(trained(found()), found()["of"], strict=True):
        assert network.operators == of[key].operators
        assert network.hidden < of[key].hidden
    assert len({network.hidden for network in trained(found())}) == 1


def trained(found):
    return list(map(Architecture.parse, found["networks"]))


def test_what_is_paid_are_hours_at_the_utilisation_of_short_trainings():
    training = FullTraining(tokens=TOKENS)
    flops = sum(
        3 * network.flops_per_token(training.context) * found()["tokens"]
        for network in trained(found())
    )
    assert found()["hours"] == pytest.approx(flops / (0.15 * 989e12) / 3600)
    best = NETWORKS[int(np.argmin(scorer().values(NETWORKS)))]
    assert found()["share"] == pytest.approx(found()["hours"] / training.hours_of(best))
    price = falls(LAW, next_trainings.body_params(best), TOKENS, found()["share"])
    assert found()["price"] == pytest.approx(float(price))


def test_more_is_spent_before_a_longer_training():
    assert found(1e9)["pays"] is False
    assert found(2e12)["pays"] is True
    assert found(2e12)["hours"] > found(TOKENS)["hours"]


@given(st.permutations(NETWORKS))
@settings(max_examples=3, deadline=None)
def test_the_order_of_candidates_does_not_matter(networks):
    assert proposal(scorer(), best_first(networks)) == found()


@pytest.mark.parametrize("first", range(3))
def test_of_networks_that_are_alike_the_recommended_one_is_trained(first):
    orders = [
        Architecture.parse(f"2048: {text}")
        for text in ("6x(m2 f m2 f m2 f a f)", "6x(m2 f m2 f a f m2 f)", "6x(m2 f a f m2 f m2 f)")
    ]
    assert np.ptp(scorer().values(orders)) == 0
    assert proposal(scorer(), [orders[first], *orders, *NETWORKS])["of"][0] == orders[first].hash


def test_sizes_that_a_network_states_follow_its_width():
    """LFM2 and NemotronH state their feed-forward layers, Qwen3.5 its heads."""
    for text, narrow in {
        "2560: 8x(conv f(intermediate=10240))": "512: 8x(conv f(intermediate=2048))",
        "3584: 8x(a(heads=16,kv_heads=4,head_dim=256) f)": "512: 8x(a(heads=2,kv_heads=1,head_dim=256) f)",
        "1536: 8x(a moe(experts=72,active=10,intermediate=256,shared=576))": (
            "512: 8x(a moe(experts=72,active=10,intermediate=80,shared=192))"
        ),
    }.items():
        network = Architecture.parse(text)
        small = Architecture.parse(narrow)
        assert narrower(network, small.hidden) == small
        assert narrower(network, network.hidden) == network


def test_what_was_trained_is_not_proposed_again():
    done, tokens = trained(found()), int(found()["tokens"])
    rows = [next_trainings.observed(network, tokens, 3.0) for network in done]
    again = proposal(scorer().informed_by(rows), NETWORKS)
    assert again["tokens"] != tokens or set(done).isdisjoint(trained(again))


def test_what_does_not_fit_is_left_out():
    wide = Architecture.parse("2048: 24x(a(kv_heads=4) f)")
    assert narrower(wide, 256) is None
    alone = [Architecture.parse("2048: 24x(a(heads=16,kv_heads=16) f)")]
    assert proposal(scorer(), alone) is None, "one network says nothing"


def test_widths_of_one_composition_have_one_training():
    wide = [dataclasses.replace(network, hidden=2304) for network in NETWORKS]
    for small, _ in next_trainings.offers([*NETWORKS, *wide]):
        assert len(small) == len({network.operators for network in small})
    assert len({each.operators for each in trained(proposal(scorer(), [*NETWORKS, *wide]))}) > 1


def test_full_trainings_share_the_hours_of_short_ones():
    several = load_scorer(None, FullTraining(tokens=TOKENS, count=5))
    shared = proposal(several, best_first(NETWORKS))
    of_one = FullTraining(tokens=TOKENS).hours_of(best_first(NETWORKS)[0])
    assert shared["share"] == pytest.approx(shared["hours"] / (5 * of_one))
    assert shared["gain"] - shared["price"] > found()["gain"] - found()["price"]


def test_without_own_trainings_the_same_rule_recommends(tmp_path):
    """The simplest of those that are alike, although another one has a lower value."""
    rows = "mine,runs,12x(a f),400M,50B,val_loss,2.6", "mine,runs,12x(m2 f),400M,50B,val_loss,2.58"
    own = tmp_path / "own.csv"
    own.write_text("\n".join(["group,source,operators,params,tokens,metric,value", *rows]))
    asked = {"workload": "chat", "calibration": "engine", "params": "20M..60M", "vocab": 8192}
    alone = search(problem_of("granite", **asked))
    problem = problem_of("granite", evidence=str(own), **asked)
    found = without_own(problem, trials := search(problem), trials.networks[trials.best])
    assert found["hash"] == alone.networks[alone.best].hash
    assert alone.best != alone.ranked[0]
