"""The loss of a longer training from a short one's curve."""

import numpy as np
import pytest

from flashnas.proxy.extrapolation import END_NATS, GAMMA, extrapolate, usable_points

SEEN = (16_384, 32_768, 49_152, 65_536, 81_920)


def curve(limit, height, gamma=GAMMA, seen=SEEN):
    return [[tokens, limit + height * (tokens / seen[-1]) ** -gamma] for tokens in seen]


def test_a_power_law_is_continued_within_its_stated_uncertainty():
    for limit, height in ((2.0, 3.0), (2.5, 3.2), (1.5, 3.6)):
        found = extrapolate(curve(limit, height), 4 * SEEN[-1])
        truth = limit + height * 4 ** -GAMMA
        assert abs(found.loss - truth) < 2 * found.sd
        assert found.loss < limit + height


def test_at_the_end_of_the_training_it_is_the_loss_itself():
    found = extrapolate(curve(2.0, 3.0), SEEN[-1] + 1)
    assert found.loss == pytest.approx(5.0, abs=2 * END_NATS)
    assert found.sd == pytest.approx(END_NATS, rel=0.2)


def test_the_uncertainty_grows_with_the_distance():
    sds = [extrapolate(curve(2.0, 3.0), factor * SEEN[-1]).sd for factor in (1.5, 2, 4, 16, 1000)]
    assert np.all(np.diff(sds) > 0)


def test_of_two_equal_ends_the_one_that_still_falls_is_ranked_first():
    flat, steep = curve(3.5, 1.5), curve(2.0, 3.0)
    assert flat[-1] == steep[-1]
    assert extrapolate(steep, 4 * SEEN[-1]).loss < extrapolate(flat, 4 * SEEN[-1]).loss


def test_a_slope_of_noise_moves_the_order_little():
    """An earlier point that is 0.02 nats off counts less than 0.02 nats of the end."""
    clean, noisy = curve(2.0, 3.0), curve(2.0, 3.0)
    noisy[3][1] += 0.02
    assert abs(extrapolate(noisy, 4 * SEEN[-1]).loss - extrapolate(clean, 4 * SEEN[-1]).loss) < 0.015


def test_the_first_third_is_left_out():
    assert [tokens for tokens, _ in usable_points(curve(2.0, 3.0))] == list(SEEN[1:])
    strange = curve(2.0, 3.0)
    strange[0][1] = 9.0
    assert extrapolate(strange, 10**6) == extrapolate(curve(2.0, 3.0), 10**6)
