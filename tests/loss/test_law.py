"""The law of size, shape and tokens: its constants, that it foretells, and where it is monotone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashnas.architecture import Architecture
from flashnas.loss.composition import LEAST_TOKENS, Law
from flashnas.loss.load import fitted, loss_model
from flashnas.loss.model import BETWEEN_SDS
from flashnas.study.next_trainings import counted_params

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def law():
    return Law(**fitted()["law"])


def test_the_shipped_constants_are_those_of_the_shipped_shapes(law, experiment):
    fitting, lengths = experiment("fitting"), experiment("lengths")
    of_tokens, _ = lengths.fit_lengths(lengths.pairs())
    found = fitting.fit_law(fitting.read_shapes(), of_tokens)
    found = dataclasses.replace(found, gamma=law.gamma, g=law.g)  # of other rows
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(law), rel=1e-3)


def test_the_law_fits_the_trainings_that_it_was_fitted_to(law, experiment):
    """Sizes and shapes to 0.04 nats on equal tokens; lengths of each publication, by the slopes of all,
    to the factor by which slopes differ."""
    rows = experiment("fitting").read_shapes()
    params, tokens, width, loss = (
        np.array([getattr(row, name) for row in rows], float)
        for name in ("params", "tokens", "width", "loss")
    )
    for length in set(tokens.round(-9)):
        alike = tokens.round(-9) == length
        errors = (law.by_shape(params, width) + law.by_tokens(params, tokens) - loss)[alike]
        assert errors.std() < 0.04
    found = experiment("lengths").pairs()
    fell = law.by_tokens(found["params"], found["tokens"])
    ratio = np.log((fell - law.by_tokens(found["params"], found["longer"])) / found["nats"])
    means = [ratio[found["source"] == source].mean() for source in set(found["source"])]
    assert len(ratio) == 288
    assert np.abs(means).max() < 0.35
    assert abs(np.mean(means)) < 0.02


def test_a_size_class_that_was_left_out_is_ordered_by_the_others(experiment):
    fit = experiment("fit")
    found = fit.shapes_left_out(fit.read_shapes())
    assert found["pairs"] >= 120
    assert found["share"] >= 0.97
    assert set(found["classes"]) == {"gem_50m", "gem_100m", "gem_500m", "gem_1b"}


@given(st.floats(2e7, 3e9), st.floats(7e9, 1e13), st.floats(1.0, 5.5))
def test_more_parameters_and_more_tokens_lower_the_loss_and_the_best_shape_is_the_lowest(
    params, tokens, shape
):
    law = Law(**fitted()["law"])

    def at(params, tokens, shape):
        width = np.array((params * np.exp(shape) / 12) ** (1 / 3))
        return float(law.by_shape(params, width) + law.by_tokens(params, tokens))

    assert at(1.1 * params, tokens, shape) < at(params, tokens, shape)
    assert at(params, 1.1 * tokens, shape) < at(params, tokens, shape)
    assert at(params, tokens, law.r0) <= at(params, tokens, shape)


def test_a_doubling_brings_less_the_longer_the_training_is_and_a_handful_of_tokens_counts_as_more(
    law,
):
    falls = [law.by_tokens(1e9, n) - law.by_tokens(1e9, 2 * n) for n in (1e10, 1e11, 1e12, 1e13)]
    assert np.all(np.diff(falls) < 0)
    assert falls[-1] > 0.005
    assert float(law.by_tokens(1e9, 1e6)) == float(law.by_tokens(1e9, LEAST_TOKENS))


def test_size_against_length_is_as_sure_as_publications_agree(experiment):
    """Pairs of one mix at equal FLOPs, by the model without their publication: errors are a fraction of
    those of one law for all, and inside the intervals."""
    lengths = experiment("lengths")
    for source in ("2609.24797", "allenai/OLMo-core"):
        found = lengths.at_equal_flops(lengths.ladder(source))
        assert found["pairs"] > 8
        assert found["model: rms"] < min(0.04, found["0.2.0: rms"] / 4)
        assert found["inside"] >= 0.9
    found = lengths.at_equal_flops(lengths.gemstones())
    assert found["pairs"] > 60
    assert 0.8 < found["inside"] < 0.95


def test_beyond_published_lengths_a_share_of_what_the_law_promises_is_uncertain(law):
    network, known = [Architecture.parse("2048: 24x(a f)")], loss_model()
    for tokens, promised in ((1e9, True), (1e11, False), (1.5e13, True)):
        beyond = float(law.beyond(counted_params(law, network[0]), tokens))
        assert (beyond > 0) == promised
        silence = known.silence(known.table(network, tokens))[0]
        assert silence == pytest.approx(BETWEEN_SDS["tokens"] * beyond)


def test_more_parameters_never_raise_the_loss(law):
    """Also of a size at which the tokens are too few to fill it: there they bring nothing."""
    assert float(law.fall(1e9, 1e11)) > 0
    assert law.fall(np.array([1e12, 1e14]), 7e9).min() == 0
