"""Who trains on: against the definition by draws, and in cases with an answer that is known."""

import numpy as np
import pytest
from scipy.stats import multivariate_t

from flashnas.search.forecast import Forecast
from flashnas.search.rungs import decide, front_chances


def curve(*losses):
    return [[64 * (place + 1), loss] for place, loss in enumerate(losses)]


def finished(count=30, seed=0):
    """Final loss = loss at 128 tokens - 0.5, within 0.01."""
    rng = np.random.default_rng(seed)
    losses = 4 + rng.normal(0, 0.2, count)
    return [curve(5 + rng.normal(0, 0.1), loss, loss - 0.5 + rng.normal(0, 0.01)) for loss in losses]


def asked(paused, costs, front, chance=0.05):
    return decide([curve(5.0, loss) for loss in paused], costs, finished=front, curves=finished(), tokens=192,
                  chance=chance)


def test_who_is_expected_below_the_front_trains_on_and_who_is_far_above_does_not():
    found = asked([3.9, 4.4, 3.9, 4.4], [[20.0], [20.0], [5.0], [5.0]], [[3.6, 10.0], [3.2, 30.0]])
    assert found.promoted.tolist() == [True, False, True, False]
    np.testing.assert_allclose(found.losses, [3.4, 3.9, 3.4, 3.9], atol=0.05)
    assert (found.sds > 0).all()


def test_what_is_cheaper_than_every_finished_network_always_trains_on():
    found = asked([6.0], [[1.0]], [[3.0, 2.0], [3.2, 1.5]])
    assert found.chances.tolist() == [1.0]


def test_a_cheaper_and_better_neighbour_in_the_cycle_ends_a_training():
    assert asked([3.9, 4.4], [[5.0], [6.0]], []).promoted.tolist() == [True, False]
    assert asked([3.9, 4.4], [[6.0], [5.0]], []).promoted.tolist() == [True, True]


def test_at_least_the_best_of_a_cycle_trains_on():
    found = asked([4.6, 4.4, 4.5], [[20.0]] * 3, [[3.0, 10.0]], chance=0.5)
    assert found.promoted.tolist() == [False, True, False]
    assert (found.chances < 0.5).all()


def test_a_first_cycle_without_anything_finished_goes_on_as_it_is():
    found = decide([curve(5.0, loss) for loss in (4.0, 4.02, 4.04, 4.3)], [[1.0]] * 4, finished=[], curves=[],
                   tokens=192, chance=0.05)
    assert found.promoted.all()
    assert (np.diff(found.chances) < 0).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objectives", [1, 2])
def test_chances_bound_the_probability_of_entering_the_front_from_above(seed, objectives):
    rng = np.random.default_rng(seed)
    root = 0.2 * rng.normal(size=(4, 4))
    expected = Forecast(3 + 0.3 * rng.normal(size=4), root @ root.T + 0.05 * np.eye(4), 6.0)
    costs, front = rng.integers(0, 4, (4, objectives)).astype(float), rng.integers(0, 4, (5, objectives)).astype(float)
    points = np.column_stack([3 + 0.3 * rng.normal(size=5), front])
    drawn = multivariate_t(expected.mean, expected.scale, expected.freedom, seed=seed).rvs(40_000)
    joint = []
    for own in range(4):
        below = np.ones(len(drawn), dtype=bool)
        for loss, *cost in points:
            below &= (drawn[:, own] < loss) if (np.array(cost) <= costs[own]).all() else True
        alone = below.mean()
        for other in set(range(4)) - {own}:
            below &= (drawn[:, own] < drawn[:, other]) if (costs[other] <= costs[own]).all() else True
        joint.append((below.mean(), alone))
    found = front_chances(expected, costs, points)
    assert (found >= np.array(joint)[:, 0] - 0.01).all()
    assert (found <= np.array(joint)[:, 1] + 0.01).all()
