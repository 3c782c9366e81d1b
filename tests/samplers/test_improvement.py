"""Expected improvement over several objectives: what draws gain, and what is known gains exactly."""

import moocore
import numpy as np
import pytest

from flashnas.samplers.bayes import expected_hypervolume_improvement

# points of a front for each number of objectives, all within [0, 1.1]
FRONTS = {
    "empty": np.empty((0, 2)),
    "one": np.array([[0.4, 0.6]]),
    "dominated, repeated and outside": np.array(
        [[0.5, 0.2], [0.4, 0.5], [0.4, 0.5], [0.45, 0.6], [0.4, 0.7], [0.9, 0.1], [0.1, 1.3]]
    ),
    "three objectives": np.random.default_rng(0).random((7, 3)),
}


def gained(front, points, reference):
    """Of each point, the hypervolume that it adds."""
    before = moocore.hypervolume(front, ref=reference) if len(front) else 0.0
    return np.array(
        [moocore.hypervolume(np.vstack([front, p]), ref=reference) - before for p in points]
    )


@pytest.mark.parametrize("known", [False, True], ids=["all uncertain", "the last known"])
@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_it_is_the_mean_of_what_draws_gain(front, known):
    objectives = front.shape[1]
    rng = np.random.default_rng(1)
    mean, sd = rng.random((3, objectives)), 0.05 + 0.3 * rng.random((3, objectives))
    reference = np.full(objectives, 1.1)
    if known:
        sd[:, -1] = 0.0
    expected = expected_hypervolume_improvement(mean, sd, front, reference)
    for i in range(3):
        draws = gained(front, rng.normal(mean[i], sd[i], (4000, objectives)), reference)
        assert abs(draws.mean() - expected[i]) < 4 * draws.std() / 4000**0.5 + 1e-12


def test_known_candidates_gain_the_difference_of_the_hypervolumes():
    rng = np.random.default_rng(2)
    mean, front, reference = rng.random((25, 3)), rng.random((9, 3)), np.full(3, 0.95)
    gain = expected_hypervolume_improvement(mean, np.zeros_like(mean), front, reference)
    np.testing.assert_allclose(gain, gained(front, mean, reference), atol=1e-10)
    assert (gain > 0).any()
    assert (gain < 1e-12).any()
