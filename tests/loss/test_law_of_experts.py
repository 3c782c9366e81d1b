"""Dense or sparse: what experts add, that dense predictions stay as they were, and what is silent."""

import dataclasses

import numpy as np
import pytest
from cases import cases
from offenders import every

from flashnas.architecture import Architecture, parse_operators
from flashnas.loss.composition import Law, outside_support
from flashnas.loss.experts import ACTIVE, MOST_TIMES, log_granularity
from flashnas.loss.load import expected, fitted, loss_model, rows_of
from flashnas.loss.mix import body_sizes, stacks
from flashnas.loss.model import CHARGE
from flashnas.observations.losses import dense_twin
from flashnas.observations.read_losses import EXPERTS, read_published

TOKENS = 1e11
SPARSE = "1536: 12x(a moe(experts={},active=8))"


def network(text):
    return Architecture.parse(text)


@every(case=cases("loss", "granularities"))
def test_the_granularity_by_hand(case):
    text, expected_ratio = case
    found = log_granularity(stacks([parse_operators(text)], 1024))[0]
    assert np.exp(found) == pytest.approx(expected_ratio, rel=1e-3)


def test_the_numbers_of_experts_are_fitted_to_the_rows_that_ship(experiment):
    law, slope = Law(**fitted()["law"]), loss_model().coefficients()["law"][0]
    found, sds = experiment("experts").with_experts(law, slope, read_published(EXPERTS))
    assert (found.gamma, found.g) == pytest.approx((law.gamma, law.g), rel=1e-3)
    common = fitted()["spreads"]["common"]
    assert sds == pytest.approx({name: common[name] for name in sds}, rel=1e-3)


def test_a_law_orders_what_was_left_out(experiment):
    """Of each size class of the ladder, and of the one publication beside it."""
    study = experiment("experts").study()
    clear = study[study.clear].groupby("left out")["right, law"].agg(["sum", "count"])
    assert len(study) == 1088
    assert (clear["sum"] / clear["count"] > 0.94).all(), clear
    several = study[study["left out"] != "DeepSeekMoE"]
    by_law, by_size = (np.sqrt(several[f"RMSE, {name}"].mean()) for name in ("law", "active size"))
    assert by_law < 0.4 * by_size


def test_the_rows_of_a_hybrid_with_experts_teach_as_their_dense_twins():
    hybrid = next(row for row in read_published() if row.active)
    twin = dense_twin(hybrid)
    assert {spec.kind for spec in twin.specs} == {"swa", "a", "f"}
    law = loss_model().law
    one, other = (rows_of([row], law).x[0] for row in (hybrid, twin))
    assert one[0] < other[0] - 0.05  # what its experts gain
    assert rows_of([twin], law).x[0, -3:] == pytest.approx(0)


def test_more_experts_gain_without_end_and_what_nobody_trained_is_charged():
    networks = [network(SPARSE.format(2**n)) for n in range(3, 13)]
    model = loss_model()
    mean = model.predict_networks(networks, TOKENS).mean
    assert (np.diff(mean) < 0).all()  # never an optimum
    silence = model.silence(model.table(networks, TOKENS))
    assert not silence[:3].any()
    assert (np.diff((mean + CHARGE * silence)[-4:]) > 0).all()


def test_an_interval_is_as_wide_as_publications_disagree():
    found = expected(network(SPARSE.format(64)), TOKENS)
    assert -0.25 < found.full_loss_difference < -0.1
    assert 0.4 < found.full_loss_sd / -found.full_loss_difference < 1
    assert found.outside == ("for recall: no publication has moe",)


def test_the_limits_are_those_of_the_rows():
    rows = read_published(EXPERTS)
    sizes = body_sizes(stacks([row.specs for row in rows], [row.hidden for row in rows]))
    sparse = sizes[sizes[:, 0] > sizes[:, 1]]
    limits = (sparse[:, 1].min(), sparse[:, 1].max(), (sparse[:, 0] / sparse[:, 1]).max())
    assert limits == pytest.approx((*ACTIVE, MOST_TIMES), rel=0.02)


@every(case=cases("loss", "silent_experts"))
def test_what_nobody_compared_is_said_and_charged(case):
    text, words = case
    there = network(text)
    assert any(words in each for each in outside_support(there, TOKENS))
    plain = dataclasses.replace(there, operators=_dense(there))
    model = loss_model()
    silence = model.silence(model.table([there, plain], TOKENS))
    assert silence[0] > silence[1] + 0.01


def _dense(there):
    return tuple(parse_operators("f")[0] if s.kind == "moe" else s for s in there.operators)
