"""A part of a long history: what must be in it, for any points."""

import numpy as np
import sampler_contract as contract
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sampler_contract import World

from flashnas.samplers import bayes, loss_model
from flashnas.samplers.bayes import subsample_history
from flashnas.trials.pareto import non_dominated


@st.composite
def histories(draw):
    count, objectives = draw(st.integers(0, 60)), draw(st.integers(2, 3))
    return draw(hnp.arrays(np.float64, (count, objectives), elements=st.integers(-4, 5).map(float)))


@given(histories(), st.integers(6, 70))
def test_a_part_has_the_recent_the_ends_and_a_front_that_has_room(points, limit):
    part = subsample_history(points, limit)
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


def test_bayes_models_a_part_of_a_long_history(monkeypatch):
    seen = []

    class Watched(loss_model.Surrogate):
        def __init__(self, features, losses, *, seed):
            seen.append(len(features))
            super().__init__(features, losses, seed=seed)

    monkeypatch.setattr(bayes, "MODELLED", 12)
    monkeypatch.setattr(bayes, "Surrogate", Watched)
    monkeypatch.setattr(loss_model, "FIT_STEPS", 10)
    world = World("bayes", {"initial": 4, "pool": 24})
    told = world.run(world.make(), 8)
    assert max(seen) == 12 < len(told)
    contract.check_replay(world)
