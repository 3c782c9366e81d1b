import dataclasses

import pytest

from flashnas.latency.fitting import Fitter
from flashnas.latency.own_costs import NoCosts
from flashnas.space import load_space
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.study.time_limit import SLACK, find_time_limit
from flashnas.training.cost import ASSUMED_RATES
from flashnas.training.recipe import Recipe


def found(recipe, seconds=None):
    """The limit and the notes of a search of a shipped space."""
    space, notes = load_space("nemotron_flash"), []
    fitter = Fitter(space, NoCosts(), [])
    baselines = [sizes[0] for _, sizes in space.baselines()]
    config = SearchConfig(candidate_timeout_s=seconds)
    return find_time_limit(config, recipe, fitter, baselines, notes.append), notes


@pytest.mark.parametrize(
    ("name", "seconds", "words"),
    [
        ("cpu", None, None),
        ("gpu", None, None),
        ("gpu", 1800, "candidate_timeout_s 1800 may end it before"),
        ("gpu-paper", None, "recipe 'gpu-paper' takes up to 1.2e+20 FLOP a training"),
    ],
)
def test_longer_recipes_have_longer_limits_and_what_takes_days_is_said(name, seconds, words):
    recipe = Recipe.load(name)
    limit, notes = found(recipe, seconds)
    expected_s = SLACK * limit.flops / ASSUMED_RATES[recipe.device]
    if name == "cpu" or seconds:
        assert limit.seconds == TIMEOUT_S == 1800
    else:
        assert 0 < expected_s <= limit.seconds < expected_s + 60
        assert limit.seconds % 60 == 0
    assert [words in note for note in notes] == ([True] if words else [])


def test_a_recipe_that_suits_no_network_leaves_the_reason_to_the_trials():
    unsuited = dataclasses.replace(Recipe.load("cpu"), width_factor=7)
    assert found(unsuited)[0].seconds == TIMEOUT_S
