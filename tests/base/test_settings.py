"""One statement per option: types, bounds, choices and defaults, checked alike from Python and from
YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from bake import Bake
from cases import cases
from offenders import every
from one_line import one_line

from flashnas.base.documents import read_yaml
from flashnas.base.errors import ConfigError
from flashnas.base.settings import SettingError, Settings, option


def write(tmp_path, text):
    path = tmp_path / "bake.yaml"
    path.write_text(text)
    return path


def test_values_come_out_in_the_types_of_the_fields():
    bake = Bake(flour="rye", heat=200, seeds=["poppy"], limits={"hot": 3}, out="here")
    assert (bake.heat, bake.seeds, bake.limits, bake.out) == (
        200.0,
        ("poppy",),
        {"hot": 3.0},
        Path("here"),
    )
    assert isinstance(bake.heat, float)
    assert Bake(flour=Path("rye")).flour == "rye"
    assert Bake(flour="rye", grams="2.3k").grams == 2300
    assert Bake(flour="rye", seeds="poppy, sesame").seeds == ("poppy", "sesame")


@every(
    case=[
        *cases("base", "wrong_values_of_options"),
        ({"heat": 10**400}, "bake.heat must be a finite number; got 1000"),
        ({"out": "\udcff"}, "bake.out must be UTF-8 text without zero bytes; got '\\udcff'"),
        (
            {"flour": "x" * 500, "grams": "y" * 500},
            f"bake.grams must be a whole number; got {'y' * 119!r}"[:-1] + "..",
        ),
    ]
)
def test_a_wrong_value_is_one_line_that_names_option_rule_and_value(case):
    values, message = case
    assert one_line(SettingError, Bake, **{"flour": "rye", **values}).startswith(message)


class Flour:
    pass


class Spelt(Flour):
    pass


@dataclass(frozen=True, kw_only=True)
class Knead(Settings, where="knead"):
    flour: str = option("rye", "what to take", choices=("rye",), instance=f"{__name__}:Flour")


def test_an_object_stands_in_for_a_name_where_the_field_says_so():
    flour = Spelt()
    assert Knead(flour=flour).flour is flour
    for wrong in (object(), Spelt):
        with pytest.raises(SettingError, match=r"^knead\.flour must be text or Flour; got <"):
            Knead(flour=wrong)
    with pytest.raises(SettingError, match=r"^bake\.flour must be text; got <"):
        Bake(flour=flour)


@every(case=cases("base", "wrong_entries_of_files"))
def test_a_wrong_entry_of_a_file_names_its_line(tmp_path, case):
    text, line, words = case
    path = write(tmp_path, text)
    assert one_line(ConfigError, Bake.build, read_yaml(path)).startswith(f"{path}:{line}: {words}")


def test_what_is_given_overrides_the_file_and_mappings_are_merged(tmp_path):
    path = write(tmp_path, "flour: rye\ngrams: 5\nlimits: {hot: 1, cold: 2}\n")
    bake = Bake.build(read_yaml(path), grams=7, limits={"hot": 3})
    assert (bake.flour, bake.grams, bake.heat, bake.limits) == (
        "rye",
        7,
        220.0,
        {"hot": 3.0, "cold": 2.0},
    )
    with pytest.raises(SettingError, match=r"^bake\.grams must"):
        Bake.build(read_yaml(path), grams=0)


def test_what_must_be_given_and_what_does_not_exist():
    with pytest.raises(SettingError, match=r"^bake\.flour is required: what to take$"):
        Bake.build()
    with pytest.raises(
        ConfigError, match=r"bake has no option 'gram' \(did you mean 'grams'\?\); allowed: flour, "
    ):
        Bake.build(flour="rye", gram=3)
