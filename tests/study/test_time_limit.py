import dataclasses

import pytest

from flashnas.base.errors import ConfigError
from flashnas.latency.fitting import Fitter, NoCosts
from flashnas.space import load_space
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.study.progress import SLACK, find_time_limit
from flashnas.training.cost import expected_seconds
from flashnas.training.recipe import Recipe


def found(recipe, seconds=None, notes=None):
    space = load_space("nemotron_flash")
    fitter = Fitter(space, NoCosts(), [])
    baselines = [sizes[0] for _, sizes in space.baselines()]
    return find_time_limit(
        SearchConfig(candidate_timeout_s=seconds),
        recipe,
        fitter,
        baselines,
        (notes if notes is not None else []).append,
    )


def test_the_shipped_cpu_recipe_keeps_its_limit():
    notes = []
    assert found(Recipe.load("cpu"), notes=notes).seconds == TIMEOUT_S == 1800
    assert notes == []


@pytest.mark.parametrize("name", ["gpu", "gpu-paper"])
def test_longer_recipes_have_longer_limits(name):
    recipe = Recipe.load(name)
    limit = found(recipe)
    expected_s = expected_seconds(limit.flops, recipe)
    assert 0 < SLACK * expected_s <= limit.seconds < SLACK * expected_s + 60
    assert limit.seconds % 60 == 0


def test_a_training_of_days_is_told_before_it_starts():
    notes = []
    found(Recipe.load("gpu-paper"), notes=notes)
    assert len(notes) == 1
    assert "recipe 'gpu-paper' takes up to 1.2e+20 FLOP a training" in notes[0]
    notes.clear()
    found(Recipe.load("gpu"), notes=notes)
    assert notes == []


def test_a_limit_below_what_is_expected_is_told():
    notes = []
    assert found(Recipe.load("gpu"), 1800, notes).seconds == 1800
    assert len(notes) == 1
    assert notes[0].endswith("candidate_timeout_s 1800 may end it before")


def test_a_limit_that_no_device_can_keep_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"candidate_timeout_s must be above [\d,]+: recipe 'gpu-paper' takes .* FLOP"
        r" for the smallest network, and a GPU computes at most 2.5e\+15 FLOP/s; got 1800",
    ):
        found(Recipe.load("gpu-paper"), 1800)


def test_a_recipe_that_suits_no_network_leaves_the_reason_to_the_trials():
    assert found(dataclasses.replace(Recipe.load("cpu"), width_factor=7)).seconds == TIMEOUT_S
