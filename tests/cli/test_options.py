"""Flags and help follow from the fields of options."""

from __future__ import annotations

import pytest
from bake import Bake
from cases import cases

from flashnas.base.settings import SettingError, settings_of
from flashnas.cli.options import help_of, message_of, spelling_of

SETTINGS = {setting.name: setting for setting in settings_of(Bake)}


def test_the_help_follows_from_the_field():
    found = {name: [spelling_of(each), help_of(each)] for name, each in SETTINGS.items()}
    assert found == cases("cli", "help")


@pytest.mark.parametrize(("values", "message"), cases("cli", "wrong_flags"))
def test_the_command_line_names_an_option_by_its_flag(values, message):
    with pytest.raises(SettingError) as caught:
        Bake(**{"flour": "rye", **values})
    assert message_of(caught.value) == message
