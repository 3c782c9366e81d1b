"""Options as documented fields of frozen dataclasses: the one statement of what a user may set.

A command's flags, the keys of its YAML file, its help text and the keywords of its function in Python all follow from
the fields of one class, and one check gives the same message for a value from any of them:

    @dataclass(frozen=True, kw_only=True)
    class ReportOptions(Settings, where="report"):
        run: str = option(REQUIRED, "run folder, such as experiments/runs/first_search", positional=True)
        width: int = option(900, "of the picture, in pixels", least=100, most=10_000)

    report.width must be at least 100; got 3                       ReportOptions(run="a", width=3)
    settings.yaml:2: report.width must be at least 100; got 3      ReportOptions.load("settings.yaml", {})
    flashnas report: --width must be at least 100; got 3           flashnas report a --width 3
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean
from flashnas.base.setting import REQUIRED, Choices, MissingError, Setting, SettingError

if TYPE_CHECKING:  # imported when a file is read: the help needs no YAML
    from flashnas.base.yaml import LocatedDict

LARGEST_SEED = 2**32 - 1      # what NumPy's older generators accept, which Optuna's samplers use
LARGEST_COUNT = 10**15        # of tokens: whole numbers up to here are exact as floats, too
MOST_THREADS = 1024           # of one process, and processes of one machine


def option(default: Any, doc: str, *, flag: str | None = None, short: str | None = None, metavar: str | None = None,
           positional: bool = False, choices: Choices = (), keys: Choices = (), least: float | None = None,
           most: float | None = None, above: float | None = None, below: float | None = None, shown: str | None = None,
           off: str | None = None, separator: str | None = None, objects: Sequence[str] = (), yaml: bool = True,
           bare: str | None = None) -> Any:
    """A dataclass field that a user may set.

    Args:
        default: the value where none is given; REQUIRED: one must be given. A function is called for a fresh value.
        doc: what the option means, in one line.
        flag: its flag without dashes, where that is not the field's name with dashes.
        short: one letter for a second flag, `-n`, which messages then use.
        metavar: what stands for the value in the help.
        positional: the command takes the value without a flag.
        choices: the allowed values, or a function that returns them.
        keys: the allowed keys of a mapping, or a function that returns them.
        least, most: closed bounds of a number, or of every number of a tuple or mapping.
        above, below: open bounds.
        shown: the default in words.
        off: of an option that is true by default: what its flag `--no-<name>` does, in one line.
        separator: a tuple is given by one flag whose parts this separates; None: the flag is repeated.
        objects: classes, as "module:Class", whose instances Python may give in place of a name; subclasses, too.
        yaml: False for what a YAML file cannot set.
        bare: the value that its flag has where none follows it.
    """
    facts = {"doc": doc, "flag": flag, "short": short, "metavar": metavar, "positional": positional,
             "choices": choices, "keys": keys, "least": least, "most": most, "above": above, "below": below,
             "shown": shown, "off": off, "separator": separator, "objects": tuple(objects), "yaml": yaml,
             "bare": bare}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


class Settings:
    """Base of the frozen dataclasses whose fields are options. Building one checks every field.

    A subclass names the place of its options in messages: `class Options(Settings, where="search")`.
    """

    where: ClassVar[str] = "settings"

    def __init_subclass__(cls, where: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if where is not None:
            cls.where = where

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name), self.where))

    @classmethod
    def setting(cls, name: str) -> Setting:
        """The option of that name. ConfigError for an unknown one, with the closest name."""
        known = {setting.name: setting for setting in settings_of(cls)}
        if name not in known:
            raise ConfigError(f"{cls.where} has no option {name!r}{did_you_mean(name, known)};"
                              f" allowed: {', '.join(known)}")
        return known[name]

    def wrong(self, name: str, rule: str) -> NoReturn:
        """Raise SettingError for a rule that a single field cannot state: `must be below seeds (4); got 5`."""
        raise SettingError(self.where, self.setting(name), rule)

    @classmethod
    def build(cls, **values: Any) -> Self:
        """The options with these keywords. Raises ConfigError for an unknown one and SettingError for a wrong value or
        one that must be given."""
        for name in values:
            cls.setting(name)
        missing = [setting for setting in settings_of(cls)
                   if setting.default is REQUIRED and setting.name not in values]
        if missing:
            raise MissingError(cls.where, missing)
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path | None, overrides: Mapping[str, Any]) -> Self:
        """Options from a YAML file, below those that are given otherwise.

        Args:
            path: a YAML file whose keys are option names; None: only the overrides and the defaults.
            overrides: option name -> value. They override the file, entries of mappings one by one; None: not given.

        Raises:
            SettingError: for a wrong value among the overrides.
            ConfigError: with file and line, for an unknown key or a wrong value in the file.
        """
        from flashnas.base.yaml import LocatedDict, read_yaml

        data = read_yaml(path) if path is not None else LocatedDict()
        known = [setting.name for setting in settings_of(cls) if setting.yaml]
        for name in data:
            if name not in known:
                raise ConfigError(f"{data.place(name)}: {cls.where} has no key {name!r}{did_you_mean(name, known)};"
                                  f" allowed: {', '.join(known)}")
        try:
            from_file = {name: cls.setting(name).checked(value, cls.where) for name, value in data.items()}
        except SettingError as error:
            raise ConfigError(f"{_place(data, error)}: {error}") from None
        from_file = cls.folded(from_file)
        given = cls.folded({name: cls.setting(name).checked(value, cls.where) for name, value in overrides.items()
                            if value is not None})
        values = {**from_file, **given}
        for name, value in given.items():
            if isinstance(value, Mapping) and isinstance(from_file.get(name), Mapping):
                values[name] = {**from_file[name], **value}
        try:
            return cls.build(**values)
        except SettingError as error:
            if error.setting.name not in data or error.setting.name in given:
                raise
            raise ConfigError(f"{_place(data, error)}: {error}") from None

    @classmethod
    def folded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of one source with shorthands put in their place; see SearchConfig.budget_ms."""
        return values


_FOUND: dict[type, tuple[Setting, ...]] = {}


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """The options of a class in the order of its fields."""
    if cls in _FOUND:
        return _FOUND[cls]
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every subclass is one
        if "doc" in field.metadata:
            container, kind, optional = _kind_of(hints[field.name])
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory
            found.append(Setting(name=field.name, default=default, container=container, kind=kind, optional=optional,
                                 **field.metadata))
    return _FOUND.setdefault(cls, tuple(found))


def _kind_of(hint: Any) -> tuple[type | None, Any, bool]:
    """-> (container, kind, whether None is allowed)."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        optional = types.NoneType in parts
        hint = next(part for part in parts if part is not types.NoneType)
    container, inside = typing.get_origin(hint), typing.get_args(hint)
    if container in (tuple, dict):
        return container, inside[1 if container is dict else 0], optional
    return None, hint, optional


def _place(data: LocatedDict, error: SettingError) -> str:
    """`file.yaml:3`, where the wrong value or entry is."""
    from flashnas.base.yaml import LocatedDict, LocatedList

    value, key = data.get(error.setting.name), error.key
    if isinstance(value, LocatedDict) and isinstance(key, str) and key in value:
        return value.place(key)
    if isinstance(value, LocatedList) and isinstance(key, int):
        return value.place(key)
    return data.place(error.setting.name)
