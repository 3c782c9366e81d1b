"""Flags from the fields of a Settings class, and back: the argparse side of
flashnas.base.settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from flashnas.base.errors import ConfigError
from flashnas.base.settings import Setting, SettingError, Settings, settings_of
from flashnas.base.text import did_you_mean

JSON_HELP = "one JSON object on stdout, nothing else"
CONFIG_HELP = "YAML with these options, and further keys of docs/commands.md; flags override it"
# what stands for a value of this type in the help; else the name of the option
PLACEHOLDERS: dict[Any, str] = {dict: "KEY=VALUE", int: "N", Path: "DIR"}


class OneLineParser(argparse.ArgumentParser):
    """argparse with one line per error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser_of(prog: str, description: str, cls: type[Settings]) -> OneLineParser:
    """One flag per option. A flag that is not given leaves no entry in the namespace, so that YAML
    and defaults count.

    Values stay text here: `options_of` has them checked and names the flag where that fails.
    """
    parser = OneLineParser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=26),
    )
    settings = settings_of(cls)
    if any(setting.yaml and not setting.positional for setting in settings):
        parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    group: Any = parser
    for setting in settings:
        if setting.heading:
            group = parser.add_argument_group(setting.heading)
        words: dict[str, Any] = {"help": help_of(setting).replace("%", "%%")}
        placeholder = placeholder_of(setting)
        if setting.is_switch:
            words |= {"action": "store_const", "const": setting.default is not True}
        else:
            words["metavar"] = placeholder.strip("[]")
        if placeholder.startswith("["):
            words |= {"nargs": "?", "const": setting.bare}
        if setting.positional:
            words["nargs"] = "?" if setting.container is None else "*"
            group.add_argument(setting.name, **words)
        elif setting.flagged:
            if setting.container is not None and setting.separator is None:
                words["action"] = "append"
            group.add_argument(*flags_of(setting), dest=setting.name, **words)
    parser.add_argument("--json", action="store_true", default=False, help=JSON_HELP)
    return parser


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
    words, default = setting.shown, setting.default
    if isinstance(default, tuple):
        default = (setting.separator or " ").join(map(str, default))
    if words is None and isinstance(default, str | int | float | Path) and not setting.is_switch:
        words = f"{default:g}" if isinstance(default, float) else str(default)
    return (setting.off or setting.doc) + f" (default: {words})" * bool(words)


def options_of(cls: type[Settings], namespace: argparse.Namespace) -> Settings:
    """The checked options of a command.

    Raises:
        SettingError: a flag has a wrong value, or one that must be given is missing.
        ConfigError: a pair is not written KEY=VALUE, or the file of --config is wrong, by file and
            line.
    """
    files = []
    if (path := getattr(namespace, "config", None)) is not None:
        if not path:
            raise ConfigError("--config must be a file; got nothing")
        from flashnas.base.documents import read_yaml  # loads YAML, which the help does not need

        files = [read_yaml(path)]
    given = dict[str, Any]()
    for setting in settings_of(cls):
        if (value := getattr(namespace, setting.name, None)) is None:
            continue
        dropped = value == [] or (isinstance(value, list) and [] in value)  # argparse drops `--`
        if dropped and not setting.positional:
            raise SettingError(setting, "must be a value; got '--'")
        given[setting.name] = _mapping(setting, value) if setting.container is dict else value
    return cls.build(*files, **given)


def message_of(error: Exception) -> str:
    """An error as the command line says it: options by their flags."""
    if not isinstance(error, SettingError):
        return str(error)
    return error.line(spelling_of(error.setting), " ")


def refuse_unknown(parser: OneLineParser, words: Sequence[str], cls: type[Settings]) -> None:
    """SystemExit with the closest flag, or the key of a --config file, if a word was not
    understood.
    """
    if not words:
        return
    flag = words[0].partition("=")[0]
    key = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    if any(setting.name == key and not setting.flagged for setting in settings_of(cls)):
        parser.error(f"does not know {words[0]!r}: {key} is a key of a file for --config")
    if key in cls.gone:
        parser.error(f"{flag} of 0.2.0 is gone; {cls.gone[key]}")
    known = [text for action in parser._actions for text in action.option_strings]
    parser.error(f"does not know {words[0]!r}{did_you_mean(flag, known)}")


def _mapping(setting: Setting, texts: Sequence[str]) -> dict[str, Any]:
    from flashnas.base.documents import parse_yaml

    values = dict[str, Any]()
    for text in texts:
        key, _, value = (part.strip() for part in text.partition("="))
        if not key or not value:
            rule = f"must read {placeholder_of(setting)}; got {text!r}"
            raise ConfigError(f"{spelling_of(setting)} {rule}")
        if key in values:
            raise ConfigError(f"{spelling_of(setting)} gives {key!r} twice")
        values[key] = parse_yaml(value) if setting.kind is Any else value
    return values
