import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashnas.latency.grid import LogGrid


def rows(frame):
    return pd.DataFrame(frame).assign(p10_us=np.nan, p90_us=np.nan, source="imported")


def grid_of(times):
    """Over n (1, 4, 16) and k (2, 8); `times` [3, 2], None where nothing was measured."""
    data = [
        {"n": n, "k": k, "latency_us": us}
        for n, line in zip((1, 4, 16), times, strict=True)
        for k, us in zip((2, 8), line, strict=True)
        if us is not None
    ]
    return LogGrid.from_rows(rows(data), ["n", "k"], grow="n")


increments = st.floats(0.0, 2.0)


@st.composite
def monotone(draw):
    """Times that grow along both axes."""
    base = np.array([[draw(increments) for _ in range(2)] for _ in range(3)])
    return 1.0 + base.cumsum(axis=0).cumsum(axis=1)


@settings(max_examples=60, deadline=None)
@given(monotone(), st.floats(1, 16), st.floats(1, 16), st.floats(2, 8), st.floats(2, 8))
def test_monotone_rows_give_a_monotone_result_within_their_range(times, n1, n2, k1, k2):
    grid = grid_of(times)
    low, _ = grid.at(n=min(n1, n2), k=min(k1, k2))
    high, _ = grid.at(n=max(n1, n2), k=max(k1, k2))
    assert low[0] <= high[0] * (1 + 1e-9)
    assert times.min() * (1 - 1e-9) <= low[0] <= times.max() * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(monotone())
def test_exact_at_grid_points(times):
    grid = grid_of(times)
    us, ruled = grid.at(n=np.array([1, 4, 16]), k=8)
    np.testing.assert_allclose(us[:, 0], times[:, 1])
    np.testing.assert_allclose(us[:, 1], 0.9 * times[:, 1])
    np.testing.assert_allclose(us[:, 2], 1.1 * times[:, 1])
    assert not ruled.any()


PLAIN = [[1, 1], [2, 2], [4, 4]]


@pytest.mark.parametrize(
    ("times", "n", "k", "expected"),
    [
        # beyond the largest a straight line goes on, in the upper bound at most in proportion
        (PLAIN, 32, 2, [4 + 16 / 6, 0.9 * (4 + 16 / 6), 1.1 * 8]),
        (PLAIN, 16 * 16 + 1, 2, [np.nan] * 3),  # more than 16 times the largest: no answer
        # a kernel that leaves a cache takes more than in proportion: in the upper bound alone
        ([[1, 1], [2, 2], [16, 16]], 32, 2, [32, 0.9 * 32, 1.1 * (16 + 16 * 14 / 12)]),
        # below the smallest the smallest counts
        (PLAIN, 4, 1, [2, 0.9 * 2 / 2, 1.1 * 2]),
        # what was not measured is inferred from the smaller one, and the line through n = 1 and 4
        ([[2, 8], [8, 32], [32, None]], 16, 8, [128, 0.9 * 128, 1.1 * 128]),
        ([[10, 10], [10, 10], [10, None]], 16, 8, [40, 9, 44]),
    ],
)
def test_what_was_not_measured_follows_by_rule(times, n, k, expected):
    us, ruled = grid_of(times).at(n=n, k=k)
    assert us.tolist() == pytest.approx(expected, nan_ok=True)
    assert bool(ruled)
    assert not grid_of(times).at(n=4, k=8)[1]


@settings(max_examples=60, deadline=None)
@given(monotone(), st.floats(16, 256), st.floats(16, 256), st.floats(2, 8))
def test_beyond_the_largest_times_grow_and_at_most_in_proportion(times, n1, n2, k):
    grid = grid_of(times)
    (low, high, edge), _ = grid.at(n=np.array([min(n1, n2), max(n1, n2), 16.0]), k=k)
    assert edge[0] * (1 - 1e-9) <= low[0] <= high[0] * (1 + 1e-9)
    assert high[0] <= edge[0] * max(n1, n2) / 16 * (1 + 1e-9)
    assert high[1] <= high[0] <= high[2]


def test_sequences_and_rows_have_no_limit():
    """They do not depend on each other; the largest batch of a small network is far beyond every
    measured one.
    """
    for axis in ("batch", "m"):
        grid = LogGrid.from_rows(
            rows([{axis: n, "latency_us": 1.0 + n} for n in (1, 8)]), [axis], grow=axis
        )
        us, ruled = grid.at(**{axis: 8e9})
        assert (us[0], bool(ruled)) == (pytest.approx(8e9), True)


def test_quadratic_axis():
    data = [{"tokens": t, "batch": 1, "latency_us": t**2} for t in (2, 8)]
    grid = LogGrid.from_rows(rows(data), ["batch", "tokens"], grow="batch", tokens_power=2)
    assert grid.at(batch=1, tokens=32)[0][0] == pytest.approx(32**2)


def test_own_percentiles_count_but_not_below_the_spread():
    frame = rows({"n": [1], "latency_us": [10.0]}).assign(
        p10_us=9.9, p90_us=15.0, source="measured"
    )
    us, _ = LogGrid.from_rows(frame, ["n"], grow="n").at(n=1)
    np.testing.assert_allclose(us, [10, 9.5, 15])
