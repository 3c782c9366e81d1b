"""Options from YAML files, below those that are given otherwise; what is wrong in a file is named with
its line:

    load_options(ReportOptions, "settings.yaml", {})
    settings.yaml:2: report.width must be at least 100; got 3
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from flashnas.base.documents import LocatedDict, read_yaml
from flashnas.base.errors import ConfigError
from flashnas.base.settings import SettingError, Settings, settings_of
from flashnas.base.text import did_you_mean

S = TypeVar("S", bound=Settings)


def load_options(cls: type[S], path: str | Path | None, overrides: Mapping[str, Any]) -> S:
    """Options from a YAML file, below those that are given otherwise.

    Args:
        path: a YAML file whose keys are option names; None: only the overrides and the
            defaults.
        overrides: option name -> value. They override the file, entries of mappings one by one;
            None: not given.

    Raises:
        ConfigError: with file and line for what is wrong in the file.
    """
    data = read_yaml(path) if path is not None else LocatedDict()
    from_file = read_options(cls, data)
    given = cls.expand_shorthands(
        {
            name: cls.setting(name).checked(value, cls.where)
            for name, value in overrides.items()
            if value is not None
        }
    )
    try:
        options = cls.build(**over(from_file, given))
    except SettingError as error:
        if error.setting.name not in data or error.setting.name in given:
            raise
        raise ConfigError(f"{place_of(data, error)}: {error}") from None
    refuse_connections(options, data, given)
    return options


def read_options(cls: type[Settings], data: LocatedDict) -> dict[str, Any]:
    """The options in a mapping of YAML; ConfigError with the line of what is wrong."""
    allowed = [setting.name for setting in settings_of(cls) if setting.yaml]
    values = {}
    for name, value in data.items():
        if name not in allowed:
            cls.check_gone(name)
            rule = f"has no key {name!r}{did_you_mean(name, allowed)}"
            place = f"{data.place(name)}: {cls.where}"
            raise ConfigError(f"{place} {rule}; allowed: {', '.join(allowed)}")
        try:
            values[name] = cls.setting(name).checked(value, cls.where)
        except SettingError as error:
            raise ConfigError(f"{place_of(data, error)}: {error}") from None
    return cls.expand_shorthands(values)


def refuse_connections(options: Settings, data: LocatedDict, given: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the line, if a file makes flashnas connect to another machine.

    Args:
        data: the mapping of the file.
        given: what the user gives in the call, which overrides the file.
    """
    for name, key in options.connections():
        if key is None and name in data and name not in given:
            place, full_name = data.place(name), name
        elif key is not None and key in data.get(name, ()) and key not in given.get(name, ()):
            place, full_name = data[name].place(key), f"{name}.{key}"
        else:
            continue
        raise ConfigError(
            f"{place}: {options.where}.{full_name} connects to another machine, which no file may"
            " ask for; give it as a flag or a keyword"
        )


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of two sources; the second one overrides, entries of mappings one by one."""
    values = {**below, **above}
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
            values[name] = {**below[name], **value}
    return values


def place_of(data: LocatedDict, error: SettingError) -> str:
    """`file.yaml:3`, where the wrong value or entry is."""
    value: Any = data.get(error.setting.name)
    if isinstance(value, dict) and error.key not in value:
        value = None
    if error.key is not None and hasattr(value, "place"):
        return str(value.place(error.key))
    return data.place(error.setting.name)
