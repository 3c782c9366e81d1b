"""The model of the full loss: a posterior that conditioning by hand also gives, and the laws that
differences obey.
"""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import one_line
from scipy.stats import multivariate_normal

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.loss.composition import FEATURES, SILENT, Law, Table
from flashnas.loss.load import fitted, loss_model, shipped_rows
from flashnas.loss.model import (
    BETWEEN_SDS,
    LAW_NATS,
    PRIOR_SDS,
    SILENT_SDS,
    FullLoss,
    Spreads,
)
from flashnas.operators.spec import OperatorSpec

TOKENS = 1e11
KINDS = ("a f", "m2 f", "gd f", "d f", "m f", "gla f", "m2", "swa(window=1024) f")


@functools.cache
def model():
    return loss_model()


def network(text, width=2048):
    return Architecture.parse(f"{width}: {text}")


def predict(*texts, **options):
    return model().predict_networks([network(text) for text in texts], TOKENS, **options)


def silence(networks):
    return model().silence(model().table(networks, TOKENS))


def sd(one, other):
    return predict(one, other).difference(0, 1)[1]


@st.composite
def stacks(draw):
    blocks = draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=6))
    return f"{draw(st.integers(1, 4))}x({' '.join(blocks)})"


# -- the posterior ---------------------------------------------------------------------------------


def test_the_posterior_is_what_conditioning_by_hand_gives(experiment):
    """One prior over coefficients, residuals and noise, written out; a free level of each group is
    all but unknown."""
    rows = shipped_rows().take(np.arange(0, len(shipped_rows()), 7))
    spreads, law = Spreads(**fitted()["spreads"]), Law(**fitted()["law"])
    fit = FullLoss(rows, spreads, law)
    new = fit.table(
        [network(text) for text in ("12x(a f)", "12x(m2 f)", "2x(5x(gd f) a f)")], TOKENS
    )
    table = Table.joined(rows, new)
    x = table.x.copy()
    x[:, 0] -= LAW_NATS
    common = np.zeros(x.shape[1])
    common[: len(FEATURES)] = [{**PRIOR_SDS, **spreads.common}[name] for name in FEATURES]
    own = [SILENT_SDS.get(name, 0.0) for name in (*FEATURES, *SILENT)]
    reliability = np.array([spreads.reliability.get(name, 1.0) for name in table.publication])
    same = np.equal.outer(table.publication, table.publication)
    shares, ffn = (part[:, None] - part for part in (table.shares, table.ffn))
    alike = np.exp(-((shares**2).sum(-1) / 0.5**2 + ffn**2 / 0.2**2) / 2)
    covariance = x * np.square(common) @ x.T + spreads.residual**2 * alike
    kinds = spreads.kind**2 * table.shares @ table.shares.T
    own = same * (x * np.square(own) @ x.T + kinds)
    between = [BETWEEN_SDS.get(name, 0.0) for name in (*FEATURES, *SILENT)]
    covariance += same * (x * np.square(between) @ x.T)
    covariance += np.outer(reliability, reliability) * own
    known = len(rows)
    noisy = covariance[:known, :known] + np.diag((spreads.noise * reliability[:known]) ** 2)
    level = 1e4 * np.equal.outer(rows.level, rows.level)  # the level of each group, nearly unknown
    by_law = x[:, 0] + x[:, 1]
    gaps = rows.nats - by_law[:known]
    gain = covariance[known:, :known] @ np.linalg.inv(noisy + level)
    mean = by_law[known:] + gain @ gaps
    posterior = covariance[known:, known:] - gain @ covariance[:known, known:]
    found, log_density = fit.predict(new), experiment("pairs").log_density
    # of a publication that nobody has seen, with its reliability drawn
    rng, draws = np.random.default_rng(0), 400_000
    drawn = np.exp(spreads.unseen * rng.standard_normal(draws))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        shared, alone = (
            matrix[one, one] + matrix[other, other] - 2 * matrix[one, other]
            for matrix in (posterior - own[known:, known:], own[known:, known:])
        )
        errors = np.sqrt(shared + alone * drawn**2) * rng.standard_normal(draws)
        assert found.mean[one] - found.mean[other] == pytest.approx(
            mean[one] - mean[other], rel=1e-4, abs=1e-5
        )
        half = 1.6449 * found.difference(one, other)[1]
        assert np.mean(np.abs(errors) < half) == pytest.approx(0.9, abs=2e-3)
        density = np.exp(log_density(found, mean[one] - mean[other] + half, one, other))
        near = np.mean(np.abs(errors - half) < 0.05 * half) / (0.1 * half)
        assert density == pytest.approx(near, rel=0.05)
    # the cost, by which spreads are fitted, is the likelihood of what no level changes
    likelihood = multivariate_normal(cov=fit.contrasts @ noisy @ fit.contrasts.T)
    count = len(fit.contrasts)
    assert fit.cost + count / 2 * np.log(2 * np.pi) == pytest.approx(
        -likelihood.logpdf(fit.contrasts @ gaps)
    )


@settings(max_examples=10, deadline=None)
@given(st.lists(stacks(), min_size=2, max_size=6))
def test_the_posterior_covariance_has_no_negative_direction(texts):
    prediction = predict(*texts)
    scale = np.exp(2 * prediction.unseen**2)
    covariance = prediction.shared + scale * prediction.own
    assert covariance == pytest.approx(covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    variance = np.diag(covariance)
    # the interval is at most as wide as by the moments, whose tails are longer
    expected = np.maximum(variance[0] + variance - 2 * covariance[0], 0.0)
    assert (prediction.sd_to(0) <= np.sqrt(expected) + 1e-7).all()
    mean, deviation = prediction.difference(0, 1)
    assert deviation == pytest.approx(prediction.sd_to(0)[1])
    assert prediction.difference(1, 0) == pytest.approx((-mean, deviation))


# -- what differences have to be -------------------------------------------------------------------


def test_networks_that_are_nearly_the_same_have_a_small_standard_deviation():
    assert sd("12x(m2 f)", "11x(m2 f) m2 f") == pytest.approx(0, abs=1e-6)
    assert sd("4x(5x(m2 f) a f)", "4x(5x(m2 f) a f) m2 f") < 0.006
    networks = [network("24x(m2 f)", width) for width in (2048, 2112)]
    mean, deviation = model().predict_networks(networks, TOKENS).difference(0, 1)
    assert deviation < 0.005
    assert mean > 0  # the larger one is better
    assert sd("12x(m2 f)", "12x(a f)") > 0.02


def test_orders_are_equal_but_for_attention_at_one_end():
    apart, even = "6x(d f) 6x(m2 f)", "6x(d f m2 f)"
    assert predict(apart, even).difference(0, 1) == pytest.approx((0, 0), abs=1e-6)
    first, middle = "a f 11x(m f)", "5x(m f) a f 6x(m f)"
    assert predict(first, middle).difference(0, 1)[0] > 0.01


def test_what_publications_do_not_have_gets_a_wide_interval():
    usual = sd("12x(a f)", "12x(gd f)")
    assert sd("12x(a f)", "12x(r7 f)") > 1.15 * usual
    assert sd("12x(a f)", "24x(d)") > 1.5 * usual  # delta rules without feed-forward layers
    assert sd("12x(a f)", "12x(moe m2)") > usual
    # more than half feed-forward layers
    sds = [sd("6x(m2 f a f)", f"6x(m2 f{' f' * more} a f{' f' * more})") for more in range(4)]
    assert sds == sorted(sds)
    assert sds[1] > 0.04


class Unknown(OperatorSpec):
    """An operator of another package, as the example of a short convolution is: of a family that
    nobody published.
    """

    kind = "unknown"
    family = "convolution"
    mixes_tokens = True

    def params(self, hidden):
        return 2 * hidden * hidden

    def flops(self, hidden, context_tokens):
        return 2.0 * self.params(hidden)


def test_an_operator_that_no_publication_has_gets_a_wide_interval():
    plain = network("12x(a f)")
    stack = [Unknown() if spec.mixes_tokens else spec for spec in plain.operators]
    other = dataclasses.replace(plain, operators=tuple(stack))
    found = model().predict_networks([plain, other], TOKENS)
    assert found.difference(0, 1)[1] > 1.15 * sd("12x(a f)", "12x(gd f)")
    assert silence([plain, other]) == pytest.approx([0, 0.03])


def test_silence_is_a_property_of_each_network():
    networks = [network(text) for text in ("12x(m2 f)", "12x(r7 f)", "6x(m2 f f f)")]
    together = silence(networks)
    assert together[0] == 0 < together[1]
    assert [silence([each])[0] for each in networks] == together.tolist()
    assert silence([]).tolist() == []


def test_the_probabilities_of_being_the_best_are_a_distribution_and_follow_the_means():
    found = predict("12x(a f)", "12x(m2 f)", "24x(a f)", "2x(5x(m2 f) a f)")
    best = found.best(range(4))
    assert best.sum() == pytest.approx(1)
    assert best.argmax() == found.mean.argmin()
    assert found.best([1]).tolist() == [1.0]
    assert found.best(range(4), seed=0).tolist() == best.tolist()


def test_the_reasons_of_a_difference_add_up_to_it():
    networks = [network("12x(a f)"), network("24x(m2 f a f)", 1536)]
    table = model().table(networks, TOKENS)
    found = model().parts_of(table, 1, 0)
    assert set(found) == {"size", "mix"}
    assert sum(found.values()) == pytest.approx(model().predict(table).difference(1, 0)[0])
    assert found["size"] < 0


def test_each_network_may_have_tokens_of_its_own():
    networks = [network(text) for text in ("12x(a f)", "6x(m2 f gd f)", "12x(r7 f)")]
    tokens_N = np.array([1e10, 1e11, 1e13])
    one_by_one = [model().table([networks[n]], tokens_N[n]) for n in range(3)]
    together, apart = model().table(networks, tokens_N), Table.joined(*one_by_one)
    for ask in (model().mean, model().silence):
        assert ask(together) == pytest.approx(ask(apart))
    found, expected = model().predict_networks(networks, tokens_N), model().predict(apart)
    assert found.mean == pytest.approx(expected.mean, abs=1e-12)
    assert found.shared == pytest.approx(expected.shared, abs=1e-12)
    assert found.own == pytest.approx(expected.own, abs=1e-12)


@pytest.mark.parametrize(
    "tokens", [np.full(2, 1e11), np.full((3, 1), 1e11), np.array([1, 1, np.nan])]
)
def test_tokens_that_are_none_of_each_network_are_refused(tokens):
    networks = [network("12x(a f)")] * 3
    message = one_line(ConfigError, model().predict_networks, networks, tokens)
    assert message.startswith("predict_networks: tokens must be a number of tokens from 1 to 1000T")


def test_more_tokens_matter_more_to_larger_networks():
    small, large = network("12x(a f)", 1024), network("24x(a f)", 2048)
    gaps = [
        model().predict_networks([small, large], tokens).difference(0, 1)[0]
        for tokens in (1e10, 1e11, 3e11)
    ]
    assert gaps == sorted(gaps)
    sds = [
        model().predict_networks([small, large], tokens).difference(0, 1)[1]
        for tokens in (3e11, 1e13, 1e15)
    ]
    assert sds[0] < sds[1] < sds[2]  # beyond what publications have


# -- the fit ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_spreads_are_those_fitted_anew(experiment):
    rows, law = shipped_rows(), Law(**fitted()["law"])
    # those of fidelity are found apart from the others
    shipped = dataclasses.replace(Spreads(**fitted()["spreads"]), fidelity={})
    found = experiment("fitting").fit_spreads(rows, law)
    costs = [FullLoss(rows, spreads, law).cost for spreads in (found, shipped)]
    assert costs[1] < costs[0] + 0.5
    assert found.noise == pytest.approx(shipped.noise, abs=1e-3)
    common = {
        name: shipped.common[name] for name in found.common
    }  # those of experts are of other rows
    assert dict(found.common) == pytest.approx(common, abs=5e-3)
