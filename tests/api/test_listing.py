"""`fn.list_names` and `flashnas list`: every kind, a line about each name, and no heavy import for
it.
"""

import dataclasses

import pytest
from cases import cases

import flashnas as fn
from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.operators import OPERATORS
from flashnas.space import load_space
from flashnas.training.recipe import Recipe


@pytest.mark.parametrize(("kind", "name", "words"), cases("api", "lists"))
def test_names_have_a_line_each(kind, name, words):
    found = fn.list_names(kind)
    assert words in found[name]
    assert not [name for name, text in found.items() if not text or "\n" in text]


def test_a_space_a_recipe_and_the_options_of_every_operator_are_shown(capsys, tmp_path):
    for kind, name, load in (("spaces", "tiny", load_space), ("recipes", "cpu", Recipe.load)):
        assert main(["list", kind, "--show", name]) == 0
        (tmp_path / f"{name}.yaml").write_text(capsys.readouterr().out)
        assert vars(load(tmp_path / f"{name}.yaml")).keys() == vars(load(name)).keys()
    missing = []
    for kind, spec in OPERATORS.items():
        assert main(["list", "operators", "--show", kind]) == 0
        text = capsys.readouterr().out
        missing += [
            f"{kind}.{field.name}"
            for field in dataclasses.fields(spec)
            if f"{field.name}={str(field.default).lower()}" not in text
        ]
    assert not missing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["spaces", "--show", "tini"], "--show must be one of"),
        (["tables", "--show", "h100_sxm"], "--show is for spaces,"),
        (["--show", "tiny"], "--show is for spaces,"),
    ],
)
def test_what_cannot_be_shown_is_one_line(words, said, refused):
    assert said in refused(["list", *words])


def test_a_wrong_kind_is_one_line():
    with pytest.raises(
        ConfigError, match=r"^list\.kind must be one of tables, .*did you mean 'samplers'"
    ):
        fn.list_names("sampler")
