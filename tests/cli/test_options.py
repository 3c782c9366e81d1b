"""Flags and help follow from the fields of options."""

from __future__ import annotations

import pytest
from bake import Bake
from cases import cases

from flashnas.base.settings import SettingError, settings_of
from flashnas.cli.options import free_value, help_of, message_of, spelling_of

SETTINGS = {setting.name: setting for setting in settings_of(Bake)}


def test_the_help_follows_from_the_field():
    found = {name: [spelling_of(each), help_of(each)] for name, each in SETTINGS.items()}
    assert found == cases("cli", "help")


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("0.5", 0.5), ("true", True), ("x", "x")])
def test_the_text_of_a_value_of_any_type_is_read_as_what_it_looks_like(text, value):
    found = free_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("values", "message"), cases("cli", "wrong_flags"))
def test_the_command_line_names_an_option_by_its_flag(values, message):
    with pytest.raises(SettingError) as caught:
        Bake(**{"flour": "rye", **values})
    assert message_of(caught.value) == message
