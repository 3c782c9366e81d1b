"""The shipped spaces under the shipped defaults: what a first user runs."""

import dataclasses

import pytest
from one_line import one_line

from flashnas.base.errors import ConfigError, SpaceError
from flashnas.base.registry import shipped_names
from flashnas.space import OperatorSpace, load_space
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.trainable import check_scalable
from flashnas.training.recipe import Recipe


@pytest.mark.parametrize("name", list(shipped_names("search_spaces")))
def test_every_operator_of_a_shipped_space_shrinks_under_the_defaults_at_every_width(name):
    space = load_space(name)
    assert isinstance(space, OperatorSpace)
    recipe = Recipe.load("cpu")
    recipe = dataclasses.replace(recipe, width_factor=space.width_factor or recipe.width_factor)
    check_scalable(space, recipe)
    for _, sizes in space.baselines():
        for architecture in sizes:
            assert (
                recipe.proxy_of(architecture).hidden == architecture.hidden // recipe.width_factor
            )


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("tiny", "operator d(head_dim=16) at width 64"),
        ("small", "operator d(head_dim=32) at width 192"),
    ],
)
def test_a_factor_that_does_not_suit_is_one_line_before_text_is_read(name, operator):
    config = SearchConfig(
        space=name, workload="chat", recipe="cpu", data="/nowhere", evidence="none"
    )
    message = one_line(ConfigError, load_problem, config)
    for words in (
        f"space {name!r}",
        operator,
        "the width factor 32 of recipe 'cpu'",
        "at least 16 wide",
        "leave out --recipe, or give it or the space another width_factor",
    ):
        assert words in message


@pytest.mark.parametrize("factor", [0, "half", 5000, True])
def test_a_wrong_factor_in_a_space_names_its_line(tmp_path, factor):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "template: layerwise\nwidths: [64]\nlayers: {depth: 1, choices: [d(head_dim=16)]}\n"
        f"width_factor: {str(factor).lower()}\n"
    )
    with pytest.raises(
        SpaceError, match=r"mine\.yaml:4: width_factor must be a whole number from 1 to 1024"
    ):
        load_space(path)
