"""The law of size, shape and tokens: its constants, that it foretells, and where it is monotone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashnas.loss.composition import COUNTED, RANGE, Law, aspect
from flashnas.loss.load import fitted

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def law():
    return Law(**fitted()["law"])


def test_the_shipped_constants_are_those_of_the_shipped_shapes(law, experiment):
    fitting = experiment("fitting")
    found = fitting.fit_law(fitting.read_shapes())
    found = dataclasses.replace(found, gamma=law.gamma, g=law.g)  # of other rows
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(law), rel=1e-3)


def test_the_law_fits_the_trainings_that_it_was_fitted_to(law, experiment):
    rows = experiment("fitting").read_shapes()
    columns = (
        np.array([getattr(row, name) for row in rows]) for name in ("params", "tokens", "width")
    )
    errors = law.loss(*columns) - [row.loss for row in rows]
    assert np.sqrt(np.mean(errors**2)) < 0.02


def test_a_size_class_that_was_left_out_is_ordered_by_the_others(experiment):
    fit = experiment("fit")
    found = fit.shapes_left_out(fit.read_shapes())
    assert found["pairs"] >= 120
    assert found["share"] >= 0.97
    assert set(found["classes"]) == {"gem_50m", "gem_100m", "gem_500m", "gem_1b"}


@given(st.floats(2e7, 3e9), st.floats(7e9, 3.5e11), st.floats(1.0, 5.5))
def test_more_parameters_and_more_tokens_lower_the_loss_and_the_best_shape_is_the_lowest(
    params, tokens, shape
):
    law = Law(**fitted()["law"])

    def at(params, tokens, shape):
        return float(
            law.loss(np.array(params), tokens, np.array((params * np.exp(shape) / 12) ** (1 / 3)))
        )

    assert at(1.1 * params, tokens, shape) < at(params, tokens, shape)
    assert at(params, min(1.1 * tokens, RANGE[1]), shape) <= at(params, tokens, shape)
    assert at(params, tokens, law.r0) <= at(params, tokens, shape)


def test_tokens_beyond_those_of_publications_count_as_the_last_that_they_have(law):
    least, most = (float(law.loss(np.array(1e9), tokens, np.array(2048))) for tokens in COUNTED)
    assert float(law.loss(np.array(1e9), 1e6, np.array(2048))) == least
    assert float(law.loss(np.array(1e9), 1e15, np.array(2048))) == most


def test_the_aspect_of_a_block_of_twelve_squared_widths_is_width_over_depth():
    assert aspect(np.array([12 * 24 * 1024**2]), np.array([1024])) == pytest.approx(
        np.log(1024 / 24)
    )
