"""The search that trains nothing: its front, its pure stacks, and that a seed fixes it."""

import numpy as np
import pytest
from foretelling import asked, with_few_candidates

from flashnas.architecture import Architecture
from flashnas.evidence.composition import outside_support
from flashnas.study.evidence_search import Foretold, pure_stacks, search_by_evidence, unevenness

FLOOR = -0.05


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    with_few_candidates(monkeypatch)


@pytest.fixture(scope="module")
def parts():
    return asked("nemotron_flash", 1500.0)


def told_of(parts, seed=0, min_recall=FLOOR):
    _, fitter, foresight = parts
    return search_by_evidence(fitter, foresight, seed=seed, min_recall=min_recall, candidates=700)


@pytest.fixture(scope="module")
def told(parts):
    with pytest.MonkeyPatch.context() as patch:
        with_few_candidates(patch)
        return told_of(parts)


def made_up(recalls, values, latencies, operators=None):
    """Foretold of networks that are told apart by their figures alone."""
    networks = [Architecture.parse(f"512: {text}") for text in operators or ["m2 f"] * len(values)]
    return Foretold(
        list(range(len(values))),
        networks,
        np.array(latencies, float),
        np.array(values, float),
        np.array(recalls, float),
    )


def test_the_seed_alone_fixes_what_is_looked_at(parts, told):
    again, other = told_of(parts), told_of(parts, seed=1)
    assert again.genotypes == told.genotypes
    assert [network.hash for network in again.networks] == [
        network.hash for network in told.networks
    ]
    for name in ("latency_ms", "value", "recall"):
        np.testing.assert_array_equal(getattr(again, name), getattr(told, name))
    assert other.genotypes != told.genotypes


def test_all_that_is_looked_at_is_within_the_budget_and_scored_as_the_model_scores_it(parts, told):
    _, fitter, foresight = parts
    assert 300 < len(told.networks) <= 850
    assert (told.latency_ms <= 1500.0).all()
    assert fitter.costs.latencies(told.networks[:20]) == pytest.approx(told.latency_ms[:20])
    np.testing.assert_allclose(told.value, foresight.value(told.networks), atol=1e-9)
    np.testing.assert_allclose(told.recall, foresight.recalls(told.networks), atol=1e-9)


@pytest.mark.parametrize("floor", [FLOOR, None, -0.02])
def test_the_front_is_not_dominated_and_keeps_the_floor(told, floor):
    front = told.front(floor)
    values, kept = told.value, told.recall >= (-np.inf if floor is None else floor)
    assert kept[front].all()
    assert (np.diff(told.latency_ms[front]) > 0).all()
    assert (np.diff(values[front]) < 0).all()
    for place in np.flatnonzero(kept):
        assert (
            (values[front] <= values[place] + 1e-8)
            & (told.latency_ms[front] <= told.latency_ms[place] + 1e-8)
        ).any()
    assert told.best(floor) == front[-1]


def test_a_floor_that_nothing_reaches_is_left_out():
    told = made_up([-0.2, -0.3], [2.0, 1.9], [1.0, 2.0])
    assert told.front(FLOOR) == told.front(None) == [0, 1]
    assert made_up([0.0, -0.3], [2.0, 1.9], [1.0, 2.0]).front(FLOOR) == [0]


def test_ranks_are_pessimistic(parts, told):
    foresight = parts[2]
    prediction = foresight.predict(told.networks[:9])
    assert (foresight.value(told.networks[:9]) > prediction.mean[1:]).all()


def test_of_orders_that_evidence_cannot_tell_apart_the_most_even_one_is_shown():
    orders = ["a a a m2 m2 m2", "a m2 a m2 a m2", "a a m2 m2 a m2"]
    told = made_up([0, 0, 0], [2.0] * 3, [1.0] * 3, operators=orders)
    assert told.front(None) == [1]
    assert (
        unevenness(told.networks[1].operators)
        < unevenness(told.networks[2].operators)
        < unevenness(told.networks[0].operators)
    )


def test_a_spread_is_about_even_in_latency_and_has_the_last_one():
    told = made_up([0] * 6, [6, 5, 4, 3, 2, 1], [1, 1.1, 1.2, 4.9, 5.1, 9])
    front = told.front(None)
    assert front == list(range(6))
    assert told.spread(front, 6) == told.spread(front, 9) == front
    assert told.spread(front, 3) in ([0, 3, 5], [0, 4, 5])
    assert told.spread(front, 2) == [0, 5]
    assert told.spread([], 3) == []


def test_the_nearest_are_different_and_begin_with_the_recommended_one(told):
    places = told.nearest(FLOOR, 7)
    values = told.value[places]
    assert places[0] == told.best(FLOOR)
    assert len(places) == 7
    assert len(set(values.round(9))) == 7
    assert (np.diff(values) > 0).all()
    assert (told.recall[places] >= FLOOR).all()


@pytest.mark.parametrize(
    ("space_name", "budget_ms"),
    [("nemotron_flash", 1500.0), ("small", 600.0), ("layerwise", 2000.0)],
)
def test_there_is_one_pure_stack_of_each_mixer(space_name, budget_ms):
    space, fitter, foresight = asked(space_name, budget_ms)

    found = pure_stacks(fitter, foresight.value)
    kinds = [{spec.kind for spec in network.operators if spec.mixes_tokens} for _, network in found]
    assert [kind for (kind,) in kinds] == [spec.kind for spec in space.mixers]
    assert len({label for label, _ in found}) == len(found)
    for label, network in found:
        assert label.startswith("pure ")
        assert fitter.fits_network(network)
        assert network.hidden in space.hidden_sizes
        assert len(network.operators) <= space.max_operators
        assert not [words for words in outside_support(network) if "operators" in words]
        wider = [
            other for other in space.widths_of(network.operators) if fitter.fits_network(other)
        ]
        assert foresight.value([network])[0] <= foresight.value(wider).min() + 1e-12


def test_pure_stacks_that_no_width_fits_are_left_out():
    _, fitter, foresight = asked("nemotron_flash", 640.0)
    found = pure_stacks(fitter, foresight.value)
    assert all(fitter.fits_network(network) for _, network in found)
    _, fitter, _ = asked("nemotron_flash", 0.01)
    assert pure_stacks(fitter, lambda networks: np.zeros(len(networks))) == []
