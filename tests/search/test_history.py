"""A part of a long history: what must be in it, for any points; and the samplers that model a
part.
"""

import numpy as np
import pytest
import sampler_contract as contract
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sampler_contract import World, three_goals

from flashnas.search import bayes, loss_model
from flashnas.search.optuna_samplers import Nsga2, Tpe
from flashnas.search.pareto import non_dominated, standings, subsample_history


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


# -- samplers with a part of their history ---------------------------------------------------------


@pytest.mark.parametrize(
    "check", [contract.check_replay, contract.check_partial_tells], ids=lambda check: check.__name__
)
@pytest.mark.parametrize(
    ("name", "goals"),
    [("tpe", None), ("nsga2", three_goals()), ("bayes", None)],
    ids=["tpe", "nsga2", "bayes"],
)
def test_the_contract_holds_when_the_history_is_cut(name, goals, check, monkeypatch):
    monkeypatch.setattr(Tpe, "most_trials", 9)
    monkeypatch.setattr(Nsga2, "most_drawn", 9)
    monkeypatch.setattr(bayes, "MODELLED", 9)
    monkeypatch.setattr(bayes, "ALWAYS_FITTED", 8)
    monkeypatch.setattr(loss_model, "FIT_STEPS", 10)  # they need not be good
    options = {
        "tpe": {"startup": 4},
        "nsga2": {"population": 4},
        "bayes": {"initial": 4, "pool": 24},
    }
    check(World(name, options[name], goals))


def test_nsga2_goes_on_from_its_best_when_its_study_is_long(monkeypatch):
    """The new study breeds at once: its first generation is there, and is the best of the old
    one.
    """
    monkeypatch.setattr(Nsga2, "most_drawn", 30)
    world = World("nsga2", {"population": 6})
    algorithm = world.make()
    while len(algorithm.study.trials) < 30:
        world.run(algorithm, 1)
    told = np.array([trial.point for trial in algorithm.complete()])
    algorithm.ask()
    first = [
        trial
        for trial in algorithm.study.trials
        if trial.system_attrs.get("NSGAIISampler:generation") == 0
        and trial.state.name == "COMPLETE"
    ]
    best = told[np.argsort(standings(told))[:6]]
    assert sorted(map(tuple, best)) == sorted(tuple(trial.values) for trial in first)
    drawn = [trial for trial in algorithm.study.trials if trial.state.name != "COMPLETE"]
    assert {trial.system_attrs.get("NSGAIISampler:generation") for trial in drawn} == {1}


def test_tpe_cuts_its_study_and_bayes_its_model(monkeypatch):
    seen = []

    class Watched(loss_model.Surrogate):
        def __init__(self, features, losses, *, seed, like=None):
            seen.append((len(features), like is not None))
            super().__init__(features, losses, seed=seed, like=like)

    monkeypatch.setattr(Tpe, "most_trials", 12)
    monkeypatch.setattr(bayes, "MODELLED", 12)
    monkeypatch.setattr(bayes, "ALWAYS_FITTED", 8)
    monkeypatch.setattr(bayes, "GROWTH", 2.0)
    monkeypatch.setattr(loss_model, "Surrogate", Watched)
    world = World("tpe", {"startup": 4})
    algorithm = world.make()
    told = world.run(algorithm, 8)
    complete = [trial for trial in algorithm.study.get_trials() if trial.state.name == "COMPLETE"]
    assert len(algorithm.history) == len(told) > 3 * len(complete) / 2
    best = min(trial.values[0] for trial in told)
    assert min(trial.values[0] for trial in complete) == best
    world = World("bayes", {"initial": 4, "pool": 24})
    told = world.run(world.make(), 8)
    assert max(count for count, _ in seen) == 12 < len(told)
    assert any(again for _, again in seen)
