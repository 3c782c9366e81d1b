"""The command `search` has these flags; its other options are keys of a file."""

from cases import cases

from flashnas.api.search import SearchOptions
from flashnas.base.settings import settings_of
from flashnas.cli.options import flags_of


def test_the_command_has_these_flags_alone():
    shown = {
        "config",
        "json",
        *(
            flag.removeprefix("--")
            for setting in settings_of(SearchOptions)
            for flag in flags_of(setting)
        ),
    }
    assert shown == set(cases("docs", "config_keys"))
