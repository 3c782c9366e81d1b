"""How many networks are drawn at random before a sampler learns, and how many are drawn together."""

import shutil

import pandas as pd
import pytest
from foreign_space import Gpt2Space, latency_ms, loss
from notes import Notes, trajectory
from one_line import one_line

from flashnas.base.documents import read_yaml
from flashnas.base.errors import ConfigError
from flashnas.reporting.statements import searched
from flashnas.run_folder.layout import CONFIG, yaml_text
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.study.config import SearchConfig
from flashnas.study.problem import schedule_of
from flashnas.study.run_search import run_search

LEARNING = ("aging-evolution", "nsga2", "tpe", "bayes")


def search(out, trials, *, sampler="random", resume=False, stop_after=None, **more):
    """The networks that were evaluated, in their order."""
    calls = []

    def evaluate(network):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(network.hash)
        return loss(network)

    run_search(
        SearchConfig(table=None, trials=trials, seed=1, sampler=sampler, **more),
        out,
        resume=resume,
        progress=Notes(),
        evaluator=evaluate,
        space=Gpt2Space(),
        table=latency_ms,
    )
    return calls


@pytest.mark.parametrize("trials", [6, 12, 40])
def test_samplers_learn_within_the_trials_that_are_asked_for(trials, tmp_path):
    found = {name: search(tmp_path / name, trials, sampler=name) for name in ("random", *LEARNING)}
    assert {len(calls) for calls in found.values()} == {trials}
    assert len({*map(tuple, found.values())}) == len(found)


def test_four_cycles_follow_a_random_start_of_a_third():
    assert [schedule_of(trials)["start"] for trials in (1, 6, 12, 29, 30, 500)] == [
        2,
        2,
        4,
        9,
        10,
        10,
    ]
    for trials in range(6, 200):
        start, cycle = schedule_of(trials)["start"], schedule_of(trials)["cycle_size"]
        first = -(-start // cycle)  # cycles with a random network
        assert 1 <= cycle <= start
        assert trials > (first + 3) * cycle, "the fourth one after them has a network"
    assert schedule_of(3)["cycle_size"] == 2
    assert schedule_of(500)["cycle_size"] == 10


@pytest.mark.parametrize("sampler", ["aging-evolution", "bayes"])
def test_more_trials_keep_the_schedule_that_the_run_was_started_with(sampler, tmp_path):
    for name in ("steps", "replay"):
        search(tmp_path / name, 6, sampler=sampler)
    search(tmp_path / "steps", 9, sampler=sampler, resume=True)
    search(tmp_path / "steps", 20, sampler=sampler, resume=True)
    search(tmp_path / "replay", 20, sampler=sampler, resume=True)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "steps"), trajectory(tmp_path / "replay"))
    assert read_yaml(tmp_path / "steps" / CONFIG)["schedule"] == schedule_of(6)
    message = one_line(
        ConfigError, search, tmp_path / "steps", 20, sampler=sampler, resume=True, cycle_size=10
    )
    assert message == "search.cycle_size must be 1, as this run was started with; got 10"


def test_a_run_that_records_none_goes_on_with_ten_and_ten(tmp_path):
    whole = search(tmp_path / "whole", 30, sampler="nsga2", cycle_size=10)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "old", 30, sampler="nsga2", cycle_size=10, stop_after=6)
    place = tmp_path / "old" / CONFIG
    recorded = dict(read_yaml(place))
    del recorded["schedule"]
    place.write_text(yaml_text(recorded))
    for name, more in (("as_recorded", {"cycle_size": 10}), ("by_default", {})):
        shutil.copytree(tmp_path / "old", tmp_path / name)
        again = search(tmp_path / name, 30, sampler="nsga2", resume=True, **more)
        assert again == whole[6:]
        assert read_yaml(tmp_path / name / CONFIG)["schedule"] == {"start": 10, "cycle_size": 10}


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("random", "6 networks proposed, 6 at random; 6 trained"),
        ("nsga2", "6 networks proposed, 2 at random, 4 by nsga2; 6 trained"),
    ],
)
def test_the_answer_says_what_was_drawn_at_random_and_what_was_trained(sampler, words, tmp_path):
    search(tmp_path / "run", 6, sampler=sampler)
    assert searched(RecordedRun.load(tmp_path / "run")) == words
