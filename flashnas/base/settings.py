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
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean, one_of

if TYPE_CHECKING:  # imported when a file is read: the help needs no YAML
    from flashnas.base.yaml import LocatedDict

REQUIRED = dataclasses.MISSING
LARGEST_SEED = 2**32 - 1      # what NumPy's older generators accept, which Optuna's samplers use
LARGEST_COUNT = 10**15        # of tokens: whole numbers up to here are exact as floats, too
MOST_THREADS = 1024           # of one process, and processes of one machine
SHOWN_CHARACTERS = 120        # of a wrong value in a message
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}

Choices = Iterable[str] | Callable[[], Iterable[str]]


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


class SettingError(ConfigError):
    """An option with a wrong value. Its message names the option as Python does, `search.trials`; `by_flag` as the
    command line does, `--trials`."""

    def __init__(self, where: str, setting: Setting, rule: str, key: str | int | None = None) -> None:
        """`rule` is the rest of the line: `must be at least 1; got 0`. `key`: of an entry in a mapping or tuple."""
        self.setting, self.rule, self.key = setting, rule, key
        entry = f".{key}" if isinstance(key, str) else ""
        super().__init__(f"{where}.{setting.name}{entry} {rule}")

    @property
    def by_flag(self) -> str:
        """The message with the option's flag."""
        entry = f" {self.key}" if isinstance(self.key, str) else ""
        return f"{self.setting.spelling}{entry} {self.rule}"


class MissingError(SettingError):
    """Options that must be given and are not."""

    def __init__(self, where: str, settings: Sequence[Setting]) -> None:
        verb = "is" if len(settings) == 1 else "are"
        self.by_flag_text = f"{' and '.join(setting.spelling for setting in settings)} {verb} required"
        names = "".join(f"and {setting.name} " for setting in settings[1:])
        super().__init__(where, settings[0], f"{names}{verb} required")

    @property
    def by_flag(self) -> str:
        return self.by_flag_text


class _RuleError(Exception):
    """The rule that a value breaks, before it is known where the value is from."""

    def __init__(self, rule: str, key: str | int | None = None) -> None:
        super().__init__(rule)
        self.rule, self.key = rule, key


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option as its field declares it; see `option`.

    container: tuple, dict or None. kind: the type of a value, or of each value of the container; Any: any type.
    optional: None is a value, too.
    """

    name: str
    doc: str
    default: Any
    container: type | None
    kind: Any
    optional: bool
    flag: str | None
    short: str | None
    metavar: str | None
    positional: bool
    choices: Choices
    keys: Choices
    least: float | None
    most: float | None
    above: float | None
    below: float | None
    shown: str | None
    off: str | None
    separator: str | None
    objects: tuple[str, ...]
    yaml: bool
    bare: str | None

    @property
    def is_switch(self) -> bool:
        """True for an option that its flag alone sets."""
        return self.kind is bool and self.container is None

    @property
    def spelling(self) -> str:
        """As on the command line: `--cycle-size`, `--no-baselines`, `-n`, `ARCH`."""
        return self.flags[0] if self.flags else self.placeholder

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags, the short one first; none if it is positional."""
        if self.positional:
            return ()
        no = "no-" if self.is_switch and self.default is True else ""
        short = (f"-{self.short}",) if self.short else ()
        return (*short, f"--{self.flag or no + self.name.replace('_', '-')}")

    @property
    def placeholder(self) -> str:
        """What stands for the value in the help."""
        return self.metavar or ("KEY=VALUE" if self.container is dict else self.name.upper())

    @property
    def help(self) -> str:
        """The line of the help, with the default."""
        text = self.off or self.doc
        default = self.shown
        if default is None and self.default not in (None, (), REQUIRED) and not self.is_switch:
            if self.container is tuple:
                default = (self.separator or " ").join(map(str, self.default))
            elif not callable(self.default):
                default = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return f"{text} (default: {default})" if default else text

    def read(self, text: str) -> Any:
        """One value from the text of a flag, not checked yet. Any: numbers, `true` and `false` are read as such."""
        if self.kind is Any:
            if text in ("true", "false"):
                return text == "true"
            for kind in (int, float):
                try:
                    return kind(text)
                except ValueError:
                    continue
            return text
        if self.kind is bool and text in ("true", "false"):
            return text == "true"
        if self.kind in (int, float):
            try:
                return self.kind(text)
            except ValueError:
                return text
        return text

    def checked(self, value: Any, where: str) -> Any:
        """The value in its type. Raises SettingError with the rule that it breaks."""
        try:
            return self._checked(value)
        except _RuleError as error:
            raise SettingError(where, self, error.rule, error.key) from None

    def is_object(self, value: Any) -> bool:
        """True for an instance, or a subclass, of one of `objects`."""
        line = value.__mro__ if isinstance(value, type) else type(value).__mro__
        return any(f"{cls.__module__}:{cls.__qualname__}" in self.objects for cls in line)

    def _checked(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if self.container is tuple:
            if self.separator is None and (isinstance(value, str | os.PathLike) or self.is_object(value)):
                value = (value,)  # one of a flag that may be repeated
            if self.kind is Any and (isinstance(value, str) or not isinstance(value, Sequence)):
                value = (value,)  # a word, or one value, in place of a list of values
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise _RuleError(f"must be a list; got {shown(value)}")
            return tuple(self._one(item, number) for number, item in enumerate(value))
        if self.container is dict:
            if not isinstance(value, Mapping):
                raise _RuleError(f"must be a mapping; got {shown(value)}")
            known = _listed(self.keys)
            for key in value:
                if not isinstance(key, str):
                    raise _RuleError(f"must have names as keys; got {shown(key)}")
                if known and key not in known:
                    raise _RuleError(f"is not one of {', '.join(known)}{did_you_mean(key, known)}", key)
            return {key: self._one(item, key) for key, item in value.items()}
        return self._one(value)

    def _one(self, value: Any, key: str | int | None = None) -> Any:
        if self.is_object(value):
            return value
        value = self._typed(value, key)
        allowed = _listed(self.choices)
        if allowed and value not in allowed:
            raise _RuleError(one_of("", value, allowed).strip(), key)
        if self.kind in (int, float):
            bounds = ((self.least, "at least", lambda limit: value >= limit),
                      (self.above, "above", lambda limit: value > limit),
                      (self.most, "at most", lambda limit: value <= limit),
                      (self.below, "below", lambda limit: value < limit))
            for limit, words, holds in bounds:
                if limit is not None and not holds(limit):
                    number = f"{limit:,.0f}" if float(limit).is_integer() and abs(limit) <= 1e15 else f"{limit:g}"
                    raise _RuleError(f"must be {words} {number}; got {shown(value)}", key)
        return value

    def _typed(self, value: Any, key: str | int | None) -> Any:
        if self.kind is Any:
            return value
        plain = not isinstance(value, bool)
        if self.kind is int and isinstance(value, numbers.Integral) and plain:
            return int(value)
        if self.kind is float and isinstance(value, numbers.Real) and plain:
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number):
                raise _RuleError(f"must be a finite number; got {shown(value)}", key)
            return number
        if self.kind is bool and not plain:
            return value
        if self.kind in (str, Path) and isinstance(value, str | os.PathLike):
            text = os.fspath(value)
            if isinstance(text, str):
                _check_text(text, key)
                return Path(text) if self.kind is Path else text
        raise _RuleError(f"must be {_KINDS[self.kind]}; got {shown(value)}", key)


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


def shown(value: Any) -> str:
    """A wrong value in a message: as Python writes it, cut where it is long."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        text = repr(value)
    except ValueError:  # of a whole number with thousands of digits
        text = "a number of thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}.."


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path in a message: as it is, or as `shown` where that is not one short line."""
    text = os.fspath(path)
    return text if text.isprintable() and len(text) <= SHOWN_CHARACTERS else shown(text)


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


def _listed(choices: Choices) -> list[str]:
    return list(choices() if callable(choices) else choices)


def _check_text(text: str, key: str | int | None) -> None:
    if "\0" in text:
        raise _RuleError(f"must not hold a zero byte; got {shown(text)}", key)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RuleError(f"must be UTF-8 text; got {shown(text)}", key) from None


def _place(data: LocatedDict, error: SettingError) -> str:
    """`file.yaml:3`, where the wrong value or entry is."""
    from flashnas.base.yaml import LocatedDict, LocatedList

    value, key = data.get(error.setting.name), error.key
    if isinstance(value, LocatedDict) and isinstance(key, str) and key in value:
        return value.place(key)
    if isinstance(value, LocatedList) and isinstance(key, int):
        return value.place(key)
    return data.place(error.setting.name)
