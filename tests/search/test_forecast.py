"""The forecast of final losses: against exact algebra, invented trainings whose law is known, and the shipped bench."""

import numpy as np
import pytest
from scipy.stats import multivariate_t, t

import flashnas.bench
from flashnas.search.forecast import Forecast, forecast, meaningful_from, rank_correlations

POINTS = (64, 128, 192, 256)


def invented(count, seed=0, noise=0.01):
    """Curves whose final loss is linear in the loss and in the fall at 192 tokens, with normal noise."""
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(count):
        first, second = 6 + rng.normal(0, 0.1), 5.5 + rng.normal(0, 0.1)
        third = second - 0.3 + rng.normal(0, 0.05)
        final = third - 0.2 - 0.4 * (second - third) + 0.1 * (third - 5) + rng.normal(0, noise)
        curves.append(list(zip(POINTS, (first, second, third, final), strict=True)))
    return curves


def test_it_finds_the_law_that_the_curves_follow():
    finished, others = invented(200), invented(50, seed=1)
    found = forecast([curve[:3] for curve in others], finished, 256)
    error = found.mean - np.array([curve[-1][1] for curve in others])
    assert np.abs(error).mean() < 0.012
    assert 0.008 < found.sd.mean() < 0.013  # the noise, with which it was made
    assert np.mean(np.abs(error) < t.ppf(0.95, found.freedom) * np.sqrt(np.diag(found.scale))) >= 0.8


@pytest.mark.parametrize("pause", [1, 2, 3])
def test_without_finished_trainings_the_order_at_the_pause_is_expected_to_last(pause):
    curves = [curve[:pause] for curve in invented(6)]
    found = forecast(curves, [], 256)
    partial = np.array([curve[-1][1] for curve in curves])
    assert (np.argsort(found.mean) == np.argsort(partial)).all()
    assert (found.mean < partial).all()
    assert (found.sd > 0.2).all()
    above_half = found.below_each_other() > 0.5
    assert (above_half == (partial[:, None] < partial[None, :])).all()


def test_more_finished_trainings_narrow_the_forecast():
    curves = [curve[:3] for curve in invented(3, seed=2)]
    sds = [forecast(curves, invented(count), 256).sd.max() for count in (0, 1, 4, 16, 64)]
    assert sds == sorted(sds, reverse=True)


def test_probabilities_are_those_of_the_joint_distribution():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    found = Forecast(rng.normal(size=3), root @ root.T, 5.0)
    drawn = multivariate_t(found.mean, found.scale, found.freedom, seed=0).rvs(200_000)
    level = np.array([0.3, np.inf, -0.5])
    np.testing.assert_allclose(found.below(level), (drawn < level).mean(axis=0), atol=0.005)
    np.testing.assert_allclose(found.below_each_other(), (drawn[:, :, None] < drawn[:, None, :]).mean(axis=0)
                               + 0.5 * np.eye(3), atol=0.005)
    np.testing.assert_allclose(np.diag(found.scale) * 5 / 3, found.sd**2)


def test_ranks_are_meaningful_from_the_first_point_after_which_they_stay_so():
    curves = [list(zip(POINTS, row, strict=True)) for row in
              ((1, 9, 1, 1), (2, 3, 2, 2), (3, 8, 3, 3), (4, 1, 4, 4))]
    assert [round(rho, 2) for _, rho in rank_correlations(curves)] == [1.0, -0.8, 1.0]
    assert meaningful_from(curves, least=0.9) == 192
    assert meaningful_from([[*curve[:2], *curve[3:]] for curve in curves], least=0.9) is None
    assert meaningful_from([[curve[0], *curve[2:]] for curve in curves], least=0.9) == 64


@pytest.mark.parametrize(("pause", "error", "rank"), [(2, 0.030, 0.75), (3, 0.008, 0.95)])
def test_on_the_shipped_bench_the_interval_holds_what_it_promises(pause, error, rank):
    """Each network by the others. The limits leave room for a bench that grows."""
    from scipy.stats import spearmanr

    curves = list(flashnas.bench.load("cpu", seed=0).drop_duplicates("proxy_hash")["curve"])
    final, expected, inside = [curve[-1][1] for curve in curves], [], []
    for place, curve in enumerate(curves):
        found = forecast([curve[:pause]], [*curves[:place], *curves[place + 1:]], curve[-1][0])
        expected.append(found.mean[0])
        inside.append(abs(found.mean[0] - curve[-1][1]) < t.ppf(0.95, found.freedom) * np.sqrt(found.scale[0, 0]))
    assert np.abs(np.array(expected) - final).mean() < error
    assert spearmanr(expected, final).statistic > rank
    assert 0.8 <= np.mean(inside) <= 0.97
