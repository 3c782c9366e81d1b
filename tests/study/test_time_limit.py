import dataclasses

import pytest

from flashnas.space import load_space
from flashnas.study.config import TIMEOUT_S
from flashnas.study.trainings import SLACK, flops_of, time_limit
from flashnas.training.cost import ASSUMED_RATES
from flashnas.training.recipe import Recipe

BASELINES = [sizes[0] for _, sizes in load_space("nemotron_flash").baselines()]


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu-paper"])
def test_longer_recipes_have_longer_limits(name):
    recipe = Recipe.load(name)
    flops = flops_of(recipe, BASELINES)
    limit_s = time_limit(recipe, flops)
    expected_s = SLACK * max(flops) / ASSUMED_RATES[recipe.device]
    if name == "cpu":
        assert limit_s == TIMEOUT_S == 1800
    else:
        assert 0 < expected_s <= limit_s < expected_s + 60
        assert limit_s % 60 == 0


def test_a_recipe_that_suits_no_network_leaves_the_reason_to_the_trials():
    unsuited = dataclasses.replace(Recipe.load("cpu"), width_factor=7)
    assert flops_of(unsuited, [*BASELINES, "of a class of the user's"]) == []
    assert time_limit(unsuited, []) == time_limit(None, []) == TIMEOUT_S
