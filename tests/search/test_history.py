"""A part of a long history: what must be in it, for any points."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flashnas.search.history import kept
from flashnas.search.pareto import non_dominated


@st.composite
def histories(draw):
    count, objectives = draw(st.integers(0, 60)), draw(st.integers(2, 3))
    return draw(hnp.arrays(np.float64, (count, objectives), elements=st.integers(-4, 5).map(float)))


@given(histories(), st.integers(6, 70))
def test_a_part_has_the_recent_the_ends_and_a_front_that_has_room(points, limit):
    part = kept(points, limit)
    assert part.tolist() == sorted(set(part.tolist()))
    assert len(part) <= limit
    if len(points) <= limit:
        assert len(part) == len(points)
        return
    assert len(part) == limit
    third = limit // 3
    assert set(range(len(points) - third, len(points))) <= set(part)
    front = np.flatnonzero(non_dominated(points))
    if len(front) <= third:
        assert set(front) <= set(part)
    assert points[part, 0].min() == points[:, 0].min()
    assert points[part, 0].max() == points[:, 0].max() or limit - third - min(len(front), third) < 2


def test_it_is_the_same_every_time_and_spread():
    points = np.random.default_rng(0).normal(size=(500, 2))
    part = kept(points, 60)
    assert part.tolist() == kept(points, 60).tolist()
    ranks = np.argsort(np.argsort(points[:, 0]))[part] / 500
    assert all(((ranks >= low) & (ranks <= low + 0.1)).any() for low in np.arange(0, 1, 0.1))
