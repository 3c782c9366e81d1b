"""The law of size, shape and tokens: its constants, that it foretells, and where it is monotone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashnas.base.errors import ConfigError
from flashnas.evidence.law import RANGE, SHAPES, Law, annealed, aspect, constants, fit_law, read_shapes
from flashnas.evidence.leave_one_out import shapes_left_out
from flashnas.evidence.load import fitted

HEAD = "group,source,params_nonemb,depth,width,tokens,metric,value\n"


@pytest.fixture(scope="module")
def law():
    return Law(**fitted()["law"])


def test_the_shipped_constants_are_those_of_the_shipped_shapes(law):
    with np.errstate(over="ignore"):
        found = constants(fit_law(read_shapes()))
    assert found == pytest.approx(dataclasses.asdict(law), rel=1e-3)


def test_the_law_fits_the_trainings_that_it_was_fitted_to(law):
    rows = annealed(read_shapes())
    params, tokens, width = (np.array([getattr(row, name) for row in rows], float)
                             for name in ("params", "tokens", "width"))
    losses = law.loss(params, tokens, width)
    assert np.sqrt(np.mean((losses - [row.loss for row in rows])**2)) < 0.02


def test_a_size_class_that_was_left_out_is_ordered_by_the_others():
    with np.errstate(over="ignore"):
        found = shapes_left_out()
    assert found["pairs"] >= 120
    assert found["share"] >= 0.97
    assert set(found["classes"]) == {"gem_50m", "gem_100m", "gem_500m", "gem_1b"}


@given(st.floats(2e7, 3e9), st.floats(7e9, 3.5e11), st.floats(1.0, 5.5))
def test_more_parameters_and_more_tokens_lower_the_loss_and_the_best_shape_is_the_lowest(params, tokens, shape):
    law = Law(**fitted()["law"])

    def at(params, tokens, shape):
        return float(law.loss(np.array(params), tokens, np.array((params * np.exp(shape) / 12)**(1 / 3))))
    assert at(1.1 * params, tokens, shape) < at(params, tokens, shape)
    assert at(params, min(1.1 * tokens, RANGE[1]), shape) <= at(params, tokens, shape)
    assert at(params, tokens, law.r0) <= at(params, tokens, shape)


def test_tokens_beyond_those_of_publications_count_as_the_last_that_they_have(law):
    least, most = (float(law.loss(np.array(1e9), tokens, np.array(2048))) for tokens in RANGE)
    assert float(law.loss(np.array(1e9), 1e6, np.array(2048))) == least
    assert float(law.loss(np.array(1e9), 1e15, np.array(2048))) == most


def test_the_aspect_of_a_block_of_twelve_squared_widths_is_width_over_depth():
    assert aspect(np.array([12 * 24 * 1024**2]), np.array([1024])) == pytest.approx(np.log(1024 / 24))


@pytest.mark.parametrize(("line", "words"), [
    ("g,s,many,12,768,1e10,dolma_val_loss,3\n", "shapes.csv:2: cannot be read as a training of a shape: "),
    ("g,,1e8,12,768,1e10,dolma_val_loss,3\n", "shapes.csv:2: source must not be empty"),
    ("g,s,1e8\n", "shapes.csv:2: cannot be read as a training of a shape: "),
])
def test_what_is_wrong_in_shapes_is_one_line(tmp_path, line, words):
    path = tmp_path / "shapes.csv"
    path.write_text(HEAD + line)
    with pytest.raises(ConfigError) as caught:
        read_shapes(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shipped_shape_has_a_source():
    rows = read_shapes(SHAPES)
    assert len(rows) == 292
    assert all(row.source for row in rows)
