"""Flags from the fields of a Settings class, and back: the argparse side of
flashnas.base.settings.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from flashnas.base.errors import ConfigError
from flashnas.base.settings import REQUIRED, Setting, SettingError, Settings, settings_of
from flashnas.base.text import did_you_mean, plain_number

JSON_HELP = "one JSON object on stdout, nothing else"
CONFIG_HELP = "YAML with any of these options; flags override it"
KEYS_HELP = (
    "YAML with any of these options, and with further keys (docs/commands.md); flags override it"
)
# what stands for a value of this type in the help; else the name of the option
PLACEHOLDERS: dict[Any, str] = {dict: "KEY=VALUE", int: "N", Path: "DIR"}


class _Formatter(argparse.HelpFormatter):
    """argparse's own, which forgets that the names of commands are indented."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action.choices, dict):
            self._action_max_length += self._indent_increment


class OneLineParser(argparse.ArgumentParser):
    """argparse with one line per error, and one per command in the help."""

    def __init__(self, *, help_column: int = 26, **more: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: _Formatter(prog, max_help_position=help_column), **more
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, cls: type[Settings]) -> None:
    """One flag per option. A flag that is not given leaves no entry in the namespace, so that YAML
    and defaults count.

    Values stay text here: `options_of` converts them and names the flag where that fails.
    """
    settings = settings_of(cls)
    if any(setting.yaml and not setting.positional for setting in settings):
        flagged = all(setting.flagged for setting in settings)
        parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP if flagged else KEYS_HELP)
    group: Any = parser
    for setting in settings:
        if not setting.flagged:
            continue
        if setting.heading:
            group = parser.add_argument_group(setting.heading)
        words: dict[str, Any] = {
            "help": help_of(setting).replace("%", "%%"),
            "default": argparse.SUPPRESS,
        }
        if setting.is_switch:
            words |= {"action": "store_const", "const": setting.default is not True}
        else:
            words["metavar"] = placeholder_of(setting).strip("[]")
            if placeholder_of(setting).startswith("["):
                words |= {"nargs": "?", "const": setting.bare}
            if (
                setting.container is not None
                and setting.separator is None
                and not setting.positional
            ):
                words["action"] = "append"
        if setting.positional:
            group.add_argument(
                setting.name, nargs="?" if setting.container is None else "*", **words
            )
        else:
            group.add_argument(*flags_of(setting), dest=setting.name, **words)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def flags_of(setting: Setting) -> list[str]:
    """Its flags; none if it is positional, or a key of a file alone."""
    if setting.positional or not setting.flagged:
        return []
    no = "no-" if setting.is_switch and setting.default is True else ""
    return setting.flag.split() or [f"--{no}{setting.name.replace('_', '-')}"]


def placeholder_of(setting: Setting) -> str:
    """What stands for the value in the help."""
    usual = PLACEHOLDERS.get(setting.container or setting.kind, setting.name.upper())
    return setting.metavar or usual


def spelling_of(setting: Setting) -> str:
    """As on the command line: `--budget-ms`, `--no-test`, `-n`, `ARCH`; a key of the file as it is."""
    if setting.positional:
        return placeholder_of(setting)
    return (flags_of(setting) or [setting.name])[0]


def help_of(setting: Setting) -> str:
    """The line of the help, with the default."""
    text = setting.off or setting.doc
    default = setting.default
    words = setting.shown
    if words is None and default not in (None, (), REQUIRED) and not setting.is_switch:
        if setting.container is tuple:
            words = (setting.separator or " ").join(map(str, default))
        elif not callable(default):
            words = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} (default: {words})" if words else text


def read_value(setting: Setting, text: str) -> Any:
    """One value from the text of a flag, not checked yet: the text itself where it is not of the
    option's kind."""
    if text in ("true", "false") and setting.kind in (bool, Any):
        return text == "true"
    for kind in {int: (int,), float: (float,), Any: (int, float)}.get(setting.kind, ()):
        with contextlib.suppress(ValueError):
            return plain_number(text, kind)
    return text


def options_of(cls: type[Settings], namespace: argparse.Namespace) -> Settings:
    """The checked options of a command.

    Raises:
        SettingError: a flag has a wrong value, or one that must be given is missing.
        ConfigError: a pair is not written KEY=VALUE, or the file of --config is wrong, by file and
            line.
    """
    from flashnas.base.option_files import load_options  # loads YAML, which the help does not need

    given = {
        setting.name: _value(setting, getattr(namespace, setting.name))
        for setting in settings_of(cls)
        if hasattr(namespace, setting.name)
    }
    return load_options(cls, getattr(namespace, "config", None), given)


def message_of(error: Exception) -> str:
    """An error as the command line says it: options by their flags."""
    if not isinstance(error, SettingError):
        return str(error)
    names = " and ".join(map(spelling_of, (error.setting, *error.others)))
    entry = f" {error.key}" if isinstance(error.key, str) else ""
    return f"{names}{entry} {error.rule}"


def check_known(
    parser: argparse.ArgumentParser, unknown: Sequence[str], cls: type[Settings]
) -> None:
    """SystemExit with the closest flag, or the key of a --config file, if a word was not
    understood.
    """
    if not unknown:
        return
    flag = unknown[0].partition("=")[0]
    key = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    if any(setting.name == key and not setting.flagged for setting in settings_of(cls)):
        parser.error(f"does not know {unknown[0]!r}: {key} is a key of a file for --config")
    if key in cls.gone:
        parser.error(f"{flag} of 0.2.0 is gone; {cls.gone[key]}")
    names = [text for action in parser._actions for text in action.option_strings]
    parser.error(f"does not know {unknown[0]!r}{did_you_mean(flag, names)}")


def _value(setting: Setting, raw: Any) -> Any:
    if setting.is_switch:
        return raw
    if setting.container is dict:
        pairs = [_pair(setting, text) for text in raw]
        for key, _ in pairs:
            if [name for name, _ in pairs].count(key) > 1:
                raise ConfigError(f"{spelling_of(setting)} gives {key!r} twice")
        return {key: read_value(setting, text) for key, text in pairs}
    if setting.container is tuple:
        words = (
            raw
            if setting.separator is None
            else [part.strip() for part in raw.split(setting.separator)]
        )
        return tuple(read_value(setting, text) for text in words)
    return read_value(setting, raw)


def _pair(setting: Setting, text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        raise ConfigError(
            f"{spelling_of(setting)} must read {placeholder_of(setting)}; got {text!r}"
        )
    return key, value
