"""Recall from published trainings: what a CSV may hold, what a stack gains, publications left
out.
"""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offenders import every

from flashnas.architecture.notation import parse_operators
from flashnas.loss import recall
from flashnas.loss.load import load_recall
from flashnas.loss.mix import stacks as stacks_of

MIXERS = ("d", "a", "m2", "swa", "gd", "r7", "swa(window=64)")
stacks = st.lists(st.sampled_from((*MIXERS, "f", "f")), min_size=1, max_size=30).map(
    lambda kinds: parse_operators(" ".join(kinds))
)


@pytest.fixture(scope="module")
def rows(experiment):
    return experiment("recall").read_recall()


@pytest.fixture(scope="module")
def scores(rows, experiment):
    return experiment("recall").leave_one_out(rows)


def is_transformer(row):
    return {spec.kind for spec in row.specs} == {"a", "f"}


def predict(*texts):
    """Means and standard deviations of stacks."""
    mean, covariance = load_recall().predict(stacks_of([parse_operators(text) for text in texts]))
    return mean, np.sqrt(np.diag(covariance))


def mean(*texts):
    return predict(*texts)[0]


def sd(*texts):
    return predict(*texts)[1]


# -- reading ---------------------------------------------------------------------------------------


def test_the_shipped_rows_are_marks_with_a_transformer_in_each_group(rows):
    assert len(rows) == 39
    assert all(0 < row.value < 0.6 for row in rows)
    assert sorted(Counter(row.group for row in rows).values()) == [5, 5, 6, 7, 16]
    assert {row.group for row in rows if is_transformer(row)} == {row.group for row in rows}


# -- the posterior ---------------------------------------------------------------------------------


def test_the_posterior_is_the_one_of_a_regression_on_all_coefficients(rows, experiment):
    """Common coefficients, those of each publication and levels of groups, each with its prior."""
    networks = stacks_of([row.specs for row in rows])
    fit, model = experiment("recall"), load_recall()
    effects = recall.effects_of(recall.mixture_of(networks, model.kinds), recall.FORM)
    sources, groups = (
        pd.get_dummies([getattr(row, name) for row in rows]).to_numpy(float)
        for name in ("source", "group")
    )
    own = [effects * source[:, None] for source in sources.T]
    sds = np.r_[fit.COMMON, np.tile(recall.OWN, len(own)), [fit.LEVEL_SD] * groups.shape[1]]
    values = np.array([row.value for row in rows])
    level = values[[is_transformer(row) for row in rows]].mean()
    prior = np.r_[-level, np.zeros(3 + 4 * len(own)), [fit.LEVEL] * groups.shape[1]]
    design = np.hstack([effects, *own, groups]) / recall.NOISE
    precision = np.diag(1 / sds**2) + design.T @ design
    coefficients = np.linalg.solve(precision, prior / sds**2 + design.T @ values / recall.NOISE)
    np.testing.assert_allclose(model.mean, coefficients[:4], atol=1e-8)
    covariance = np.linalg.inv(precision)[:4, :4]
    np.testing.assert_allclose(model.covariance, covariance, atol=1e-8)


def test_the_plain_transformer_differs_by_the_noise_of_two_trainings():
    assert mean("24x(a f)") == pytest.approx(0, abs=1e-4)
    assert sd("24x(a f)") == pytest.approx(
        math.sqrt(2) * recall.NOISE * load_recall().scale, rel=0.1
    )


# -- what a stack gains ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(stacks, st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_does_not_matter_and_full_attention_raises_what_has_none(specs, random, layers):
    without = tuple(spec for spec in specs if spec.kind != "a")
    lists = [specs, random.sample(specs, len(specs)), without]
    lists.append(without + parse_operators("a") * layers)
    means, covariance = load_recall().predict(stacks_of(lists))
    assert means[0] == pytest.approx(means[1])
    # stacks that are alike differ by the noise of their trainings
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert variance == pytest.approx(2 * (recall.NOISE * load_recall().scale) ** 2)
    assert means[3] > means[2]


@settings(deadline=None, max_examples=25)
@given(st.lists(stacks, min_size=1, max_size=6))
def test_every_stack_lies_between_one_of_ffns_and_what_publications_found(candidates):
    means, covariance = load_recall().predict(stacks_of([parse_operators("20x(f)"), *candidates]))
    assert (means[1:] >= means[0] - 1e-9).all()
    assert (means <= 0.05).all()
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_mixers_have_the_published_order():
    order = mean(
        "24x(a f)",
        "21x(gd f) 3x(a f)",
        "21x(m2 f) 3x(a f)",
        "24x(gd f)",
        "24x(m2 f)",
        "24x(swa(window=64) f)",
        "24x(f)",
    )
    assert (np.diff(order) < 0).all()
    assert mean("24x(swa(window=64) f)") < mean("24x(swa f)") < mean("24x(swa(window=1024) f)") < 0


# -- where publications are silent -----------------------------------------------------------------


def test_an_operator_that_nobody_measured_has_no_recall_and_is_less_certain():
    assert mean("24x(r7 f)") == mean("24x(kda f)") == mean("24x(f)") < mean("24x(gd f)")
    assert mean("12x(kda f a f)") < mean("12x(gd f a f)")
    assert sd("24x(r7 f)") > 1.1 * sd("24x(gd f)")


@every(
    case=[
        ("4x(d f) a f", "20x(d f) 5x(a f)"),
        ("12x(d f f) 12x(a f f)", "12x(d f a f)"),
        ("12x(d f m2 f)", "24x(d f)"),
        ("24x(gd moe)", "24x(gd f)"),
        ("20x(f)", "20x(m2 f)"),
        ("24x(swa(window=8) f)", "24x(swa(window=64) f)"),
    ]
)
def test_the_deviation_grows_where_publications_are_silent(case):
    silent, published = case
    assert sd(silent) > sd(published)
    assert load_recall().supported(parse_operators(silent))


def test_published_stacks_are_supported_and_others_are_described(rows):
    supported = load_recall().supported
    assert [supported(row.specs) for row in rows] == [""] * len(rows)
    assert supported(parse_operators("12x(kda f r7 moe)")) == "no publication has kda or moe or r7"
    assert supported(parse_operators("2x(d f f m2 f f)")) == (
        "no publication has d with m2; it has 4 token mixers; publications have at least 21;"
        " 67% of the operators are FFNs, of publications about half"
    )
    assert (
        supported(parse_operators("24x(swa(window=4096) f)"))
        == "a window outside 64 to 1024 tokens"
    )


# -- publications left out -------------------------------------------------------------------------


def test_a_publication_that_is_left_out_is_ordered_and_covered(scores):
    assert scores["pairs"] == 131
    assert scores["share"] > 0.84
    assert scores["rmse"] < 0.075
    assert 0.85 <= scores["coverage90"] <= 0.96
    assert min(score["share"] for score in scores["by_publication"].values()) > 0.8


def test_with_the_form_chosen_by_the_others_it_is_nearly_so(scores):
    assert scores["chosen"]["share"] > 0.77
    assert 0.85 <= scores["chosen"]["coverage90"] <= 0.96
    assert scores["chosen"]["log_score"] < scores["log_score"]


def test_the_shipped_form_is_the_one_that_the_rows_choose(rows, experiment):
    assert experiment("recall").choose_form(rows) == recall.FORM
