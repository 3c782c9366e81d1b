"""Dominance and hypervolume: properties, and agreement with pymoo and BoTorch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flashnas.search.pareto import hypervolume, non_dominated, standings

# few different values, so that ties and duplicates are common
coordinates = st.integers(-4, 5).map(float)


@st.composite
def point_sets(draw, most=12):
    objectives = draw(st.integers(1, 4))
    return draw(
        hnp.arrays(np.float64, (draw(st.integers(0, most)), objectives), elements=coordinates)
    )


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


@given(point_sets())
def test_mask_is_the_definition_of_dominance(points):
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@given(point_sets())
def test_hypervolume_of_a_grid_is_the_number_of_dominated_unit_cells(points):
    corner = np.full(points.shape[1], 3.0)
    cells = np.stack(np.meshgrid(*[np.arange(-4.0, 3.0)] * points.shape[1], indexing="ij"), -1)
    cells = cells.reshape(-1, points.shape[1])
    covered = (points[None, :, :] <= cells[:, None, :]).all(-1).any(1)
    assert hypervolume(points, corner) == covered.sum()


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_agrees_with_pymoo(objectives):
    from pymoo.indicators.hv import HV
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    rng = np.random.default_rng(objectives)
    for n in (1, 2, 20, 40):
        points = rng.normal(size=(n, objectives))
        corner = np.full(objectives, 1.0)
        assert hypervolume(points, corner) == pytest.approx(
            HV(ref_point=corner)(points), rel=1e-9, abs=1e-12
        )
        front = NonDominatedSorting().do(points, only_non_dominated_front=True)
        assert np.flatnonzero(non_dominated(points)).tolist() == sorted(front.tolist())


def test_worked_examples():
    points = [[1, 4], [2, 2], [4, 1], [3, 3], [2, 2]]
    assert non_dominated(points).tolist() == [True, True, True, False, True]
    assert hypervolume(points, [5, 5]) == 4 * 1 + 3 * 2 + 1 * 1
    assert hypervolume([[5, 0]], [5, 5]) == 0
    assert hypervolume(np.zeros((0, 2)), [5, 5]) == 0
    assert non_dominated(np.zeros((0, 2))).tolist() == []
    assert non_dominated([[np.inf, 1], [2, 2]]).tolist() == [True, True]
    assert hypervolume([[np.inf, 1], [2, 2]], [5, 5]) == 9


def test_thousands_of_points_in_three_objectives_take_no_time():
    import time

    points = np.random.default_rng(0).dirichlet(np.ones(3), size=5000)  # all of them on the front
    hypervolume(points[:10], np.ones(3))
    started = time.perf_counter()
    volume = hypervolume(points, np.ones(3))
    assert time.perf_counter() - started < 2.0  # slicing took 42 s
    assert 0.8 < volume < 5 / 6  # of the simplex itself: 1 - 1/6


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        ([[np.nan, 1.0]], [2, 2], "NaN"),
        ([1.0, 2.0], [2, 2], r"\[N, M\]"),
        ([[1.0, 2.0]], [2], "reference must be 2 finite numbers"),
        ([[1.0, 2.0]], [2, np.inf], "reference must be 2 finite numbers"),
        ([[-np.inf, 2.0]], [2, 3], "minus infinity"),
    ],
)
def test_bad_input_is_refused(points, reference, message):
    with pytest.raises(ValueError, match=message):
        hypervolume(points, reference)


def test_standings_put_fronts_first_and_the_ends_of_a_front_before_its_crowded_middle():
    points = [
        [3, 3],
        [0, 4],
        [4, 0],
        [1.9, 2.1],
        [2, 2],
        [5, 5],
    ]  # the middle pair is crowded, [3, 3] is behind it
    places = standings(points)
    assert sorted(places.tolist()) == list(range(6))
    assert set(places[[1, 2]]) == {0, 1}
    assert set(places[[3, 4]]) == {2, 3}
    assert places[[0, 5]].tolist() == [4, 5]
