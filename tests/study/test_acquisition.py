"""Which trainings are acquired: the gain is what simulated trainings bring, and the set is the best."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from flashnas.architecture import Architecture
from flashnas.loss.composition import Table
from flashnas.loss.load import loss_model, rows_of
from flashnas.loss.own import OWN, as_own, with_own
from flashnas.observations.losses import ObservedLoss
from flashnas.study import acquisition
from flashnas.study.acquisition import (
    Acquisition,
    Prospects,
    acquire,
    acquisition_line,
    joint_of,
)
from flashnas.study.scorer import COMPLEXITY_NATS, complexities, load_scorer

TOKENS = 1e11
STACKS = (
    "1536: 12x(a f)",
    "1536: 12x(m2 f)",
    "1536: 12x(d f)",
    "1536: 12x(gd f)",
    "1536: 4x(m2 f m2 f a f)",
    "1536: 4x(gd f gd f a f)",
    "1536: 4x(d f d f a f)",
    "1792: 9x(gla f)",
    "1536: 6x(gd f m2 f)",
    "1536: 12x(kda f)",
)
NETWORKS = [Architecture.parse(text) for text in STACKS]
SMALL = [Architecture.parse(f"256: 4x({mixer} f)") for mixer in ("a", "m2")]
TOY = 262_144  # tokens of a short training


@functools.cache
def scorer(*, published=True):
    return load_scorer(None, TOKENS, published=published)


def full(network, nats=0.0, factor=1, tokens=TOKENS):
    return ObservedLoss.of(network.scaled(factor), nats=nats, tokens=tokens, group="mine")


def toy(network, nats=0.0):
    return full(network, nats, factor=16, tokens=TOY)


def flops(network):
    return 3 * network.flops_per_token(4096) * TOKENS


def acquired(count, model=None, networks=NETWORKS, observed=full, **more):
    return acquire(model or scorer(), networks, count, observed=observed, flops=flops, **more)


def rows_of_model(model, trainings):
    rows = rows_of(trainings, model.law)
    return dataclasses.replace(rows, publication=np.full(len(rows), model.publication, object))


def best_first():
    return [NETWORKS[index] for index in np.argsort(scorer().values(NETWORKS))]


def prospects(observed=full, own=(), reliability=1.0, **more):
    model, networks = loss_model(), best_first()
    joint = joint_of(
        model,
        rows_of_model(model, own) if own else None,
        model.table(networks, TOKENS),
        rows_of_model(model, list(map(observed, networks))),
        reliability,
    )
    return Prospects(*joint, **more)


# -- the gain --------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_the_model_with_own_rows():
    own = [full(network, 2.5 + 0.02 * k) for k, network in enumerate(NETWORKS[:4])]
    fitted = with_own(loss_model(), rows_of(as_own(own), loss_model().law), reliability=1.7)
    found, expected = (
        prospects(own=own, reliability=1.7),
        fitted.predict_networks(best_first(), TOKENS),
    )
    assert np.ptp(found.mean - expected.mean) < 1e-5
    charges = found.values - found.mean
    assert charges == pytest.approx(
        acquisition.CHARGE * fitted.silence(fitted.table(best_first(), TOKENS)), abs=1e-5
    )
    assert fitted.publication == OWN


NEAR = [
    Architecture.parse(f"1536: 4x({mixer} f {mixer} f a f)")
    for mixer in ("m2", "gd", "d", "kda", "r7", "gla")
]


def simulated(networks, observed, count):
    """Draws of the full losses of networks [D, N], and of those of their trainings [D, N]."""
    model = scorer(published=False).publications
    rows = rows_of_model(model, list(map(observed, networks)))
    predicted = model.predict(Table.joined(model.table(networks, TOKENS), rows))
    every = np.arange(2 * len(networks))
    covariance = predicted.shared + predicted.own
    noise = np.diag(np.where(every < len(networks), 0, predicted.noise**2))
    drawn = np.random.default_rng(2).multivariate_normal(
        predicted.mean, covariance + noise, count, "ignore", method="eigh"
    )
    return zip(*np.split(drawn, 2, axis=1), strict=True)


def test_the_gain_is_what_simulated_trainings_bring(monkeypatch):
    """Losses are drawn, and two networks trained, then two more; the model learns their losses, and
    the recommendation changes."""
    monkeypatch.setattr("flashnas.loss.load.with_own", functools.partial(with_own, reliability=1.0))
    prices = COMPLEXITY_NATS * complexities(NEAR)
    expected, gains, bare = [], [], scorer(published=False)

    short = functools.partial(full, factor=4, tokens=6e9)
    for truth, losses in simulated(NEAR, short, 100):
        rows, found, now = [], [], bare
        for _ in range(2):
            found.append(acquired(2, now, NEAR, short))
            rows += [
                short(network, 3 + losses[NEAR.index(network)]) for network in found[-1].networks
            ]
            now = now.informed_by(rows)
        before, after = (int(np.argmin(each.values(NEAR))) for each in (bare, now))
        gains.append((truth + prices)[before] - (truth + prices)[after])
        expected.append(sum(each.gain_nats for each in found))
    error = np.std(np.subtract(gains, expected)) / np.sqrt(len(gains))
    assert np.mean(gains) == pytest.approx(np.mean(expected), abs=3 * error)
    assert np.mean(gains) > 3 * error


@pytest.mark.parametrize("trained", [False, True])
def test_the_gain_of_a_trained_loss_is_the_expected_improvement(trained):
    """Of one training beside another, observed or not: s phi(g / s) - g Phi(-g / s), for the gap g of
    the expected losses and the standard deviation s of their difference."""
    bare, pair = scorer(published=False), NETWORKS[3:5]
    rows = rows_of_model(bare.publications, list(map(toy, pair)))
    predicted = bare.publications.predict(rows)
    covariance = predicted.shared + predicted.own
    sd = np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1]) + 2 * predicted.noise**2)
    gap, first = abs(np.diff(predicted.mean)[0]), int(np.argmin(predicted.mean))
    if trained:
        bare = bare.informed_by([toy(pair[first], 5.0)])
    found = acquired(2, bare, pair, toy, of_trained=True, best=5.0 if trained else None)
    assert list(found.networks) == [pair[first], pair[1 - first]][trained:]
    expected = sd * norm.pdf(gap / sd) - gap * norm.cdf(-gap / sd)
    assert found.gain_nats == pytest.approx(expected, rel=0.02)


def test_trainings_never_harm_where_what_is_uncovered_costs_nothing(monkeypatch):
    monkeypatch.setattr(acquisition, "CHARGE", 0.0)
    found, generator = prospects(), np.random.default_rng(0)
    for count in (1, 2, 3, 4, 5, 6):
        assert found.gain(generator.permutation(len(NETWORKS))[:count]) > -1e-5


def test_a_training_at_full_size_tells_more_than_a_toy():
    chosen = list(range(len(NETWORKS)))
    assert prospects().gain(chosen) > 10 * prospects(toy).gain(chosen) >= 0


# -- the set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_trained", [False, True])
def test_no_random_set_gains_more(of_trained):
    found, generator = prospects(of_trained=of_trained), np.random.default_rng(0)
    chosen = found.greedy(4)
    fresh = functools.partial(found.gain, draws=4096, seed=1)
    others = (chosen[:1] + generator.permutation(range(1, 10))[:3].tolist() for _ in range(40))
    assert fresh(chosen) >= 0.98 * max(map(fresh, others))


def test_what_costs_more_than_it_gains_is_chosen_last():
    """At a price for each FLOP all but the first two, which compare, are the cheaper the earlier."""
    free = acquired(10)
    priced = acquired(10, price=lambda flops: 1e3 * flops / flops_of_all)
    assert free.gain_nats > 0
    assert free.price_nats == 0 < priced.price_nats
    costs = list(map(flops, priced.networks[1:]))
    assert costs == sorted(costs)


flops_of_all = sum(map(flops, NETWORKS))


def test_the_first_of_a_group_is_the_recommended_network():
    found = acquired(1)
    assert found.networks[0] == best_first()[0]
    assert abs(found.gain_nats) < 1e-4, "alone it says nothing"


def test_what_is_complex_is_recommended_and_trained_later(monkeypatch):
    before = acquired(3)
    assert complexities(before.networks[:1])[0], "a mixture of recurrences"
    for module in ("acquisition", "scorer"):
        monkeypatch.setattr(f"flashnas.study.{module}.COMPLEXITY_NATS", 0.5)
    assert not complexities(acquired(3).networks).any()


def test_as_many_are_trained_as_are_asked_for():
    networks = [*SMALL, NETWORKS[5]]
    found = acquired(3, networks=networks)
    assert set(found.networks) == set(networks)
    assert abs(found.gain_nats) < 1e-6, "neither small one can become the best"
    assert found.flops == sum(map(flops, found.networks))
    assert "FLOPs in all: no gain is expected: " in acquisition_line(found, TOY, False)


def test_all_count_where_the_mixes_of_one_group_are_those_of_another():
    networks = [*NETWORKS, Architecture.parse("2048: 12x(a f)")]

    def grouped(network):
        return dataclasses.replace(full(network), group=f"width {network.hidden}")

    found = acquired(20, networks=networks, observed=grouped)
    assert set(found.networks) == set(networks)


def test_none_is_trained_twice_and_none_that_failed():
    own = [full(network, 2.5) for network in NETWORKS[:4]]
    found = acquired(20, scorer().informed_by(own), known=[NETWORKS[4]])
    assert set(found.networks) == set(NETWORKS[5:])
    everything = [full(network, 2.5) for network in NETWORKS]
    nothing = acquired(4, scorer().informed_by(everything))
    assert nothing == Acquisition((), 0.0, 0.0)


@given(st.permutations(NETWORKS))
@settings(max_examples=5, deadline=None)
def test_the_order_of_candidates_does_not_matter(networks):
    assert acquired(4, networks=networks + networks[:2]) == acquired(4)


@pytest.mark.parametrize("of_trained", [False, True])
def test_a_line_says_what_is_trained_at_what_cost_for_what(of_trained):
    networks = tuple(NETWORKS)
    line = acquisition_line(Acquisition(networks, 0.01234, 2.5e13), 10**6, of_trained)
    gain = (
        "the lowest trained loss is expected to fall by 0.0123 nats"
        if of_trained
        else "the recommended network is expected to be 0.0123 nats better for it"
    )
    assert line == f"training 10 networks on 1,000,000 tokens each, 2.5e+13 FLOPs in all: {gain}"
    priced = acquisition_line(Acquisition(networks, 0.01234, 2.5e13, 0.011), 10**6, of_trained)
    more = ", at a price of 0.011"
    assert priced == line + ("" if of_trained else more)
    assert acquisition_line(Acquisition(networks[:2], 0.0, 1e13), 10**6, of_trained) == (
        "training 2 networks on 1,000,000 tokens each, 1.0e+13 FLOPs in all:"
        " no gain is expected: 1536: 12x(a f) and 1536: 12x(m2 f)"
    )
