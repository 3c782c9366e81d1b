"""Shipped spaces, a foreign one and that of the example keep the contract."""

from pathlib import Path

import pytest
from foreign_space import Gpt2Space
from space_contract import check_space

from flashnas.base.registry import shipped_names
from flashnas.space import TEMPLATES, load_space

EXAMPLE = Path(__file__).parents[2] / "examples/flashnas-gpt2-space"


@pytest.mark.parametrize(
    "space",
    [*shipped_names("search_spaces"), Gpt2Space()],
    ids=lambda space: space if isinstance(space, str) else "foreign",
)
def test_spaces_keep_the_contract(space):
    check_space(space)


def test_every_template_has_a_shipped_space():
    spaces = map(load_space, shipped_names("search_spaces"))
    assert {space.template for space in spaces} == set(TEMPLATES.shipped)


def test_the_example_keeps_the_contract(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from flashnas_gpt2_space import space

    check_space(
        space.Gpt2Space({"width": [32, 64], "layers": [1, 2], "heads": [2], "mlp_ratio": [2, 4]})
    )
    monkeypatch.setitem(TEMPLATES.shipped, "gpt2", "flashnas_gpt2_space.space:Gpt2Space")
    check_space(EXAMPLE / "gpt2.yaml")
