"""Flags and help follow from the fields of options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flashnas.base.settings import REQUIRED, SettingError, Settings, option, settings_of
from flashnas.cli.options import help_of, message_of, read_value, spelling_of


@dataclass(frozen=True, kw_only=True)
class Fry(Settings, where="fry"):
    fish: str = option(REQUIRED, "what to take", positional=True)
    grams: int = option(500, "how much", min=1)
    heat: float = option(220.0, "of the pan")
    share: float | None = option(None, "of butter", shown="the recipe's")
    salt: bool = option(True, "with salt", off="without salt")
    crisp: bool = option(False, "fry longer")
    sides: tuple[str, ...] = option(("peas", "chips"), "to add", separator=",")
    notes: dict[str, Any] = option(dict, "for the cook", flag="--note", keys=("cook",))
    out: Path | None = option(None, "folder")


SETTINGS = {setting.name: setting for setting in settings_of(Fry)}


def test_the_help_follows_from_the_field():
    assert {name: (spelling_of(each), help_of(each)) for name, each in SETTINGS.items()} == {
        "fish": ("FISH", "what to take"),
        "grams": ("--grams", "how much (default: 500)"),
        "heat": ("--heat", "of the pan (default: 220)"),
        "share": ("--share", "of butter (default: the recipe's)"),
        "salt": ("--no-salt", "without salt"),
        "crisp": ("--crisp", "fry longer"),
        "sides": ("--sides", "to add (default: peas,chips)"),
        "notes": ("--note", "for the cook"),
        "out": ("--out", "folder"),
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("notes", "3", 3),
        ("notes", "true", True),
        ("notes", "x", "x"),
        ("grams", "3", 3),
        ("grams", "x", "x"),  # the check says what is wrong with it
        ("heat", "3", 3.0),
    ],
)
def test_a_flag_is_read_in_the_type_of_its_field(name, text, value):
    found = read_value(SETTINGS[name], text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grams": 0}, "--grams must be at least 1; got 0"),
        ({"salt": 3}, "--no-salt must be true or false; got 3"),
        ({"notes": {"cok": 0}}, "--note cok is not one of cook (did you mean 'cook'?)"),
        ({"fish": 3}, "FISH must be text; got 3"),
    ],
)
def test_the_command_line_names_an_option_by_its_flag(values, message):
    with pytest.raises(SettingError) as caught:
        Fry(**{"fish": "cod", **values})
    assert message_of(caught.value) == message
