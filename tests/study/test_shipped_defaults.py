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


@pytest.mark.parametrize("name", list(shipped_names("search_spaces", ".yaml")))
def test_every_operator_of_a_shipped_space_shrinks_under_the_defaults_at_every_width(name):
    space = load_space(name)
    assert isinstance(space, OperatorSpace)
    recipe = Recipe.load("cpu")
    recipe = dataclasses.replace(recipe, width_factor=space.width_factor or recipe.width_factor)
    check_scalable(space, recipe, own=True)
    for _, sizes in space.baselines():
        for architecture in sizes:
            assert (
                recipe.proxy_of(architecture).hidden == architecture.hidden // recipe.width_factor
            )


@pytest.mark.parametrize(
    ("name", "operator", "factor", "offer"),
    [
        (
            "tiny",
            "operator d(head_dim=16) at width 64",
            32,
            "leave out --recipe to train at the space's own factor 1",
        ),
        (
            "small",
            "operator d(head_dim=32) at width 192",
            32,
            "leave out --recipe to train at the space's own factor 4",
        ),
    ],
)
def test_a_factor_that_does_not_suit_is_one_line_before_text_is_read(name, operator, factor, offer):
    config = SearchConfig(
        space=name, workload="chat", recipe="cpu", data="/nowhere", evidence="none"
    )
    message = one_line(ConfigError, load_problem, config)
    for words in (
        f"space {name!r}",
        operator,
        f"the width factor {factor} of recipe 'cpu'",
        "at least 16 wide",
        offer,
    ):
        assert words in message


def test_a_space_without_a_factor_of_its_own_offers_those_that_work(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "template: layerwise\nmodel: {vocab: 512}\nwidths: [64, 96]\n"
        "layers: {depth: [1, 2], choices: [d(head_dim=16), f]}\n"
    )
    with pytest.raises(
        ConfigError, match=r"give a recipe, or the space, the width_factor 1 or 2 or 4$"
    ):
        check_scalable(load_space(path), Recipe.load("cpu"), own=True)


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
