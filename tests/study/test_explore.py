"""The search that trains nothing: its front, and that a seed fixes it."""

import numpy as np
import pytest
from problems import problem_of

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import Fitter
from flashnas.study.explore import Explored, evenly_spread, explore

FLOOR = -0.05


def explored(seed=0, min_recall=FLOOR):
    problem = problem_of()
    return explore(problem.space, problem.fitter, problem.scorer, seed=seed, min_recall=min_recall)


@pytest.fixture(scope="module")
def expected():
    return explored()


def made_up(recalls, values, latencies, operators=None):
    """Networks that differ by their figures alone."""
    networks = [Architecture.parse(f"512: {text}") for text in operators or ["m2 f"] * len(values)]
    return Explored(
        list(range(len(values))),
        networks,
        np.array(latencies, float),
        np.array(values, float),
        np.array(recalls, float),
    )


def test_the_seed_alone_fixes_what_is_tried(expected):
    again, other = explored(), explored(seed=1)
    assert again.genotypes == expected.genotypes
    assert [network.hash for network in again.networks] == [
        network.hash for network in expected.networks
    ]
    for name in ("latency_ms", "value", "recall"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    assert other.genotypes != expected.genotypes


def test_all_is_within_the_budget_and_scored_as_the_scorer_does(expected):
    problem = problem_of()
    assert 300 < len(expected.networks) <= 850
    assert (expected.latency_ms <= 1500.0).all()
    latencies = problem.costs.latencies(expected.networks[:20])
    assert latencies == pytest.approx(expected.latency_ms[:20])
    scorer = problem.scorer
    np.testing.assert_allclose(expected.value, scorer.values(expected.networks), atol=1e-9)
    np.testing.assert_allclose(expected.recall, scorer.recalls(expected.networks), atol=1e-9)


def test_evolution_is_better_than_as_many_random_networks():
    problem = problem_of("layerwise", 2000.0)
    found = explore(problem.space, problem.fitter, problem.scorer, seed=0, min_recall=FLOOR)
    rng = np.random.default_rng(0)
    genotypes = [problem.space.sample(rng) for _ in found.networks]
    fitted = [problem.fitter.fit_width(genotype)[0] for genotype in genotypes]
    networks = [network for network in fitted if network is not None]
    values, recalls = problem.scorer.values(networks), problem.scorer.recalls(networks)
    best = found.best(FLOOR)
    assert found.value[best] < values[recalls >= FLOOR].min() - 0.005
    operators = found.networks[best].operators
    assert operators == evenly_spread(operators), "evidence knows nothing of their order"


@pytest.mark.parametrize("floor", [FLOOR, None, -0.02])
def test_the_front_is_not_dominated_and_keeps_the_floor(expected, floor):
    front = expected.front(floor)
    values, kept = expected.value, expected.recall >= (-np.inf if floor is None else floor)
    assert kept[front].all()
    assert (np.diff(expected.latency_ms[front]) > 0).all()
    assert (np.diff(values[front]) < 0).all()
    for index in np.flatnonzero(kept):
        assert (
            (values[front] <= values[index] + 1e-8)
            & (expected.latency_ms[front] <= expected.latency_ms[index] + 1e-8)
        ).any()
    assert expected.best(floor) == front[-1]


def test_a_floor_that_nothing_reaches_is_left_out():
    found = made_up([-0.2, -0.3], [2.0, 1.9], [1.0, 2.0])
    assert found.front(FLOOR) == found.front(None) == [0, 1]
    assert made_up([0.0, -0.3], [2.0, 1.9], [1.0, 2.0]).front(FLOOR) == [0]


def test_of_orders_that_evidence_cannot_tell_apart_the_most_even_one_is_shown():
    orders = ["a a a m2 m2 m2", "a m2 a m2 a m2", "a a m2 m2 a m2"]
    found = made_up([0, 0, 0], [2.0] * 3, [1.0] * 3, operators=orders)
    assert found.front(None) == [1]


def test_a_spread_is_about_even_in_latency_and_has_the_last_one():
    found = made_up([0] * 6, [6, 5, 4, 3, 2, 1], [1, 1.1, 1.2, 4.9, 5.1, 9])
    front = found.front(None)
    assert front == list(range(6))
    assert found.spread(front, 6) == found.spread(front, 9) == front
    assert found.spread(front, 3) in ([0, 3, 5], [0, 4, 5])
    assert found.spread(front, 2) == [0, 5]
    assert found.spread([], 3) == []


def test_the_ranked_are_different_and_begin_with_the_recommended_one(expected):
    ranked = expected.ranked(FLOOR, 7)
    values = expected.value[ranked]
    assert ranked[0] == expected.best(FLOOR)
    assert len(set(values.round(9))) == len(ranked) == 7
    assert (np.diff(values) > 0).all()
    assert (expected.recall[ranked] >= FLOOR).all()


def test_budgets_that_no_network_meets_are_one_line():
    problem = problem_of()
    fitter = Fitter(problem.space, problem.costs, problem.fitter.budgets, lambda _: False)
    with pytest.raises(BudgetError, match=r"none of .* that were tried meets the budget and has"):
        explore(problem.space, fitter, problem.scorer, seed=0, min_recall=0.0)
