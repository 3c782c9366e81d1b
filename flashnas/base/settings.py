"""Options as documented fields of frozen dataclasses: the one statement of what a user may set.
Flags, keys of YAML, help text and keywords in Python follow from the fields of one class, and one
check gives the same message for all:

    @dataclass(frozen=True, kw_only=True)
    class ReportOptions(Settings, where="report"):
        run: str = option(REQUIRED, "run folder", positional=True)
        width: int = option(900, "of the picture, in pixels", min=100, max=10_000)

    ReportOptions(run="a", width=3)            report.width must be at least 100; got 3
    flashnas report a --width 3                flashnas report: --width must be at least 100; got 3

Files of options: option_files.py. What a program writes and reads back is a plain dataclass: see
documents.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from flashnas.base.errors import ConfigError
from flashnas.base.text import MAX_TOKENS as MAX_TOKENS
from flashnas.base.text import did_you_mean, meant, number_of, one_of, shown

REQUIRED = MISSING  # the default of an option that must be given
MAX_SEED = 2**32 - 1  # what NumPy's older generators accept, which Optuna's samplers use
MAX_THREADS = 1024  # of one process, and processes of one machine
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
}


Choices = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option, as `option` declares it.

    name, container (tuple, dict or None), kind (of each value; Any: any) and optional follow from
    the field. A default that is a function makes a fresh value; REQUIRED: a value must be given.
    """

    default: Any
    doc: str  # what the option means, in one line
    shown: str | None = None  # the default in words
    # the values that are allowed: words, keys of a mapping, or numbers, also those of a tuple
    choices: Choices = ()
    keys: Choices = ()
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    objects: Sequence[str] = ()  # "module:Class", whose instances Python may give for a name
    # on the command line
    flag: str = ""  # where it is not the name with dashes: `-n --count`; messages use the first one
    metavar: str | None = None  # in the help; in brackets: the value may be left out, ..
    bare: str | None = None  # .. which means this one
    positional: bool = False  # without a flag
    heading: str = ""  # of the group in the help that begins here
    off: str | None = None  # of what is true by default: what `--no-<name>` does
    separator: str | None = None  # of a tuple in one flag; None: the flag is repeated
    flagged: bool = True  # False: a key of the file of --config alone
    # in files. False for what starts a program or names a class, names files to write, or belongs
    # to one call
    yaml: bool = True
    connects: Callable[[Any], bool] = lambda _: False  # to another machine: not taken from a file
    identity: bool = True  # of a search: a run is continued only with the same value
    name: str = ""
    container: type | None = None
    kind: Any = str
    optional: bool = False

    @property
    def is_switch(self) -> bool:
        """True for an option that its flag alone sets."""
        return self.kind is bool and self.container is None

    def is_object(self, value: Any) -> bool:
        """True for an instance of one of `objects`."""
        classes = {f"{cls.__module__}:{cls.__qualname__}" for cls in type(value).__mro__}
        return not classes.isdisjoint(self.objects)

    def checked(self, value: Any, where: str) -> Any:
        """The value in its type. Raises SettingError with the rule that it breaks."""
        if value is None and self.optional:
            return None
        if self.container is None:
            return self._entry(value, where)
        if self.container is dict:
            if not isinstance(value, Mapping):
                raise SettingError(where, self, f"must be a mapping; got {shown(value)}")
            self._check_keys(value, where)
            return {key: self._entry(item, where, key) for key, item in value.items()}
        is_path = isinstance(value, str | os.PathLike) or self.is_object(value)
        if (is_path and self.separator is None) or (
            self.kind is Any and (is_path or not isinstance(value, Sequence))
        ):
            # one of a flag that may be repeated, or one value in place of a list of any values
            value = (value,)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise SettingError(where, self, f"must be a list; got {shown(value)}")
        return tuple(self._entry(item, where, place) for place, item in enumerate(value))

    def _check_keys(self, keys: Iterable[Any], where: str) -> None:
        allowed = _listed(self.keys)
        for key in keys:
            if not isinstance(key, str):
                raise SettingError(where, self, f"must have names as keys; got {shown(key)}")
            if allowed and key not in allowed:
                rule = f"is not one of {', '.join(allowed)}{did_you_mean(key, allowed)}"
                raise SettingError(where, self, rule, key)

    def _entry(self, value: Any, where: str, key: str | int | None = None) -> Any:
        """A value, or one of a tuple or mapping, in its type."""
        if self.is_object(value):
            return value
        try:
            if isinstance(value, str) and self.kind in (int, float):
                value = self._number(value, str(key or self.name))
            value = _typed(value, self.kind)
            if value == "" and "" not in (self.default, self.bare):
                raise ValueError("must not be empty; got ''")
            allowed = _listed(self.choices)
            if allowed and value not in allowed:
                raise ValueError(one_of("", value, allowed).strip())
            if self.kind in (int, float):
                self._check_bounds(value)
        except ValueError as error:
            raise SettingError(where, self, str(error), key) from None
        return value

    def _number(self, text: str, name: str) -> float:
        """The number that a text is, such as 1e6 or 64k; `name` ends with the unit, if it has one."""
        number = number_of(text)
        if math.isnan(number):
            raise ValueError(
                f"must be {_KINDS[self.kind]}; got {shown(text)}"
                f"{meant(text, name, share=1 in (self.max, self.below))}"
            )
        return int(number) if self.kind is int and number.is_integer() else number

    def _check_bounds(self, value: float) -> None:
        for limit, words, holds in (
            (self.min, "at least", operator.ge),
            (self.above, "above", operator.gt),
            (self.max, "at most", operator.le),
            (self.below, "below", operator.lt),
        ):
            if limit is not None and not holds(value, limit):
                whole = float(limit).is_integer() and abs(limit) <= 1e15
                number = f"{limit:,.0f}" if whole else f"{limit:g}"
                raise ValueError(f"must be {words} {number}; got {shown(value)}")


def option(default: Any, doc: str, **facts: Any) -> Any:
    """A dataclass field that a user may set; `facts` are further fields of `Setting`."""
    metadata = {"setting": Setting(default=default, doc=doc, **facts)}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class SettingError(ConfigError):
    """An option with a wrong value; its message names the option as Python does, `search.trials`.

    Args:
        rule: the rest of the line: `must be at least 1; got 0`.
        key: of an entry in a mapping or tuple.
        others: further options that break the rule.
    """

    def __init__(
        self,
        where: str,
        setting: Setting,
        rule: str,
        key: str | int | None = None,
        others: Sequence[Setting] = (),
    ) -> None:
        self.setting = setting
        self.rule = rule
        self.key = key
        self.others = others
        names = " and ".join(part.name for part in (setting, *others))
        entry = f".{key}" if isinstance(key, str) else ""
        super().__init__(f"{where}.{names}{entry} {rule}")


class Settings:
    """Base of the frozen dataclasses whose fields are options. Building one checks every field.

    where: of its options in messages: `class Options(Settings, where="search")`. gone: options of
    earlier versions, with what to do instead.
    """

    where: ClassVar[str] = "settings"
    gone: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, where: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if where is not None:
            cls.where = where

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            value = setting.checked(getattr(self, setting.name), self.where)
            object.__setattr__(self, setting.name, value)

    @classmethod
    def check_gone(cls, name: str) -> None:
        """ConfigError for an option that went."""
        if name in cls.gone:
            raise ConfigError(f"{cls.where}.{name} of 0.2.0 is gone; {cls.gone[name]}")

    @classmethod
    def setting(cls, name: str) -> Setting:
        """The option of that name. ConfigError for an unknown one, with the closest name."""
        cls.check_gone(name)
        by_name = {setting.name: setting for setting in settings_of(cls)}
        if name not in by_name:
            raise ConfigError(
                f"{cls.where} has no option {name!r}{did_you_mean(name, by_name)};"
                f" allowed: {', '.join(by_name)}"
            )
        return by_name[name]

    def wrong(self, name: str, rule: str) -> NoReturn:
        """Raise SettingError for a rule of several fields: `must be below seeds (4); got 5`."""
        raise SettingError(self.where, self.setting(name), rule)

    @classmethod
    def build(cls, **values: Any) -> Self:
        """The options with these keywords. Raises ConfigError for an unknown one and SettingError
        for a wrong value or one that must be given."""
        for name in values:
            cls.setting(name)
        required = [setting for setting in settings_of(cls) if setting.default is REQUIRED]
        missing = [setting for setting in required if setting.name not in values]
        if missing:
            rule = "are required" if missing[1:] else "is required"
            rule += f": {'; '.join(setting.doc for setting in missing)}"
            raise SettingError(cls.where, missing[0], rule, others=missing[1:])
        return cls(**values)

    def connections(self) -> Iterator[tuple[str, str | None]]:
        """The options, and entries of mappings, that make flashnas connect to another machine."""
        for setting in settings_of(type(self)):
            if setting.connects(getattr(self, setting.name)):
                yield setting.name, None

    @classmethod
    def expand_shorthands(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of one source without shorthands; see SearchConfig.budget_ms."""
        return values


_SETTINGS: dict[type, tuple[Setting, ...]] = {}


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """The options of a class in the order of its fields."""
    if cls not in _SETTINGS:
        hints = typing.get_type_hints(cls)
        _SETTINGS[cls] = tuple(
            dataclasses.replace(
                field.metadata["setting"], name=field.name, **_kind_of(hints[field.name])
            )
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every subclass is one
            if "setting" in field.metadata
        )
    return _SETTINGS[cls]


def _kind_of(hint: Any) -> dict[str, Any]:
    """container, kind and optional of a Setting."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        optional = types.NoneType in parts
        hint = next(part for part in parts if part is not types.NoneType)
    container = typing.get_origin(hint)
    if container in (tuple, dict):
        hint = typing.get_args(hint)[1 if container is dict else 0]
    return {"container": container, "kind": hint, "optional": optional}


def _typed(value: Any, kind: Any) -> Any:
    """The value as one of that kind; ValueError with the rule that it breaks."""
    is_bool = isinstance(value, bool)
    if kind is Any or (kind is bool and is_bool):
        return value
    if kind is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not is_bool:
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
        raise ValueError(f"must be a finite number; got {shown(value)}")
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str):
            return kind(_checked_text(text))
    raise ValueError(f"must be {_KINDS[kind]}; got {shown(value)}")


def _checked_text(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"must not hold a zero byte; got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"must be UTF-8 text; got {shown(text)}") from None
    return text


def _listed(choices: Choices) -> list[str]:
    return list(choices() if callable(choices) else choices)
