"""Dominance: its definition, and worked examples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flashnas.trials.pareto import crowded_ranks, non_dominated

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


def test_crowded_ranks_put_fronts_first_and_the_ends_of_a_front_before_its_crowded_middle():
    points = [
        [3, 3],
        [0, 4],
        [4, 0],
        [1.9, 2.1],
        [2, 2],
        [5, 5],
    ]  # the middle pair is crowded, [3, 3] is behind it
    places = crowded_ranks(points)
    assert sorted(places.tolist()) == list(range(6))
    assert set(places[[1, 2]]) == {0, 1}
    assert set(places[[3, 4]]) == {2, 3}
    assert places[[0, 5]].tolist() == [4, 5]
