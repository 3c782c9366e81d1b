"""Options as documented fields of frozen dataclasses: the one statement of what a user may set.
Flags, keys of YAML, help text and keywords in Python follow from the fields of one class, and one
check gives the same message for all:

    @dataclass(frozen=True, kw_only=True)
    class ReportOptions(Settings, where="report"):
        run: str = option(REQUIRED, "run folder, such as experiments/runs/first_search",
        positional=True) width: int = option(900, "of the picture, in pixels", min=100, max=10_000)

    report.width must be at least 100; got 3                       ReportOptions(run="a", width=3)
    settings.yaml:2: report.width must be at least 100; got 3
    ReportOptions.load("settings.yaml", {}) flashnas report: --width must be at least 100; got 3
    flashnas report a --width 3

What a program writes and reads back is a plain dataclass: see documents.py.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from flashnas.base.errors import ConfigError
from flashnas.base.text import did_you_mean, number_of, one_of, shown

if TYPE_CHECKING:  # imported when a file is read: the help needs no YAML
    from flashnas.base.documents import LocatedDict

REQUIRED = MISSING  # the default of an option that must be given
MAX_SEED = 2**32 - 1  # what NumPy's older generators accept, which Optuna's samplers use
MAX_THREADS = 1024  # of one process, and processes of one machine
BARE = "shipped"  # a flag without its value, where that may be left out
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
}


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its container: the default number of
    workers. The environment variable LOKY_MAX_CPU_COUNT lowers it."""
    from joblib import cpu_count

    return int(cpu_count())


Choices = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option, as `option` declares it.

    default: the value where none is given; REQUIRED: one must be given. A function makes a fresh
    value. doc: what the option means, in one line.
    flag: its flag, where that is not the field's name with dashes: `--space`, or `-n --count`,
    whose first
        one messages use.
    metavar: stands for the value in the help; in brackets: it may be left out, which means `bare`.
    positional: the command takes the value without a flag.
    heading: of the group in the help that begins with this option.
    choices: the allowed values, or a function that returns them. keys: likewise the allowed keys of
    a
        mapping.
    min, max: closed bounds of a number, or of every number of a tuple or mapping. above, below:
    open bounds. shown: the default in words.
    off: of an option that is true by default: what its flag `--no-<name>` does, in one line.
    separator: a tuple is given by one flag whose parts this separates; None: the flag is repeated.
    objects: classes, as "module:Class", whose instances Python may give in place of a name.
    yaml: False for what a YAML file cannot set: what starts a program, names files to write or
    another
        machine, or belongs to one call.
    flagged: False for what the command line sets by a key of its --config file alone.
    connects: whether a value makes flashnas connect to another machine. Such a value is not taken
    from a file. identity: of a search: it fixes the trajectory, so that a run is continued only
    with the same value. name, container (tuple, dict or None), kind (of each value; Any: any) and
    optional follow from the field.
    """

    default: Any
    doc: str
    flag: str = ""
    metavar: str | None = None
    bare: str = BARE
    positional: bool = False
    heading: str = ""
    choices: Choices = ()
    keys: Choices = ()
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    units: bool = False  # a number may have K, M, B or T behind it
    shown: str | None = None
    off: str | None = None
    separator: str | None = None
    objects: Sequence[str] = ()
    yaml: bool = True
    flagged: bool = True
    connects: Callable[[Any], bool] = lambda _: False
    identity: bool = True
    name: str = ""
    container: type | None = None
    kind: Any = str
    optional: bool = False

    @property
    def is_switch(self) -> bool:
        """True for an option that its flag alone sets."""
        return self.kind is bool and self.container is None

    @property
    def spelling(self) -> str:
        """As on the command line: `--budget-ms`, `--no-test`, `-n`, `ARCH`; a key of the file as it
        is.
        """
        return self.flags[0] if self.flags else self.placeholder if self.positional else self.name

    @property
    def flags(self) -> list[str]:
        """Its flags; none if it is positional, or a key of a file alone."""
        if self.positional or not self.flagged:
            return []
        no = "no-" if self.is_switch and self.default is True else ""
        return self.flag.split() or [f"--{no}{self.name.replace('_', '-')}"]

    @property
    def placeholder(self) -> str:
        """What stands for the value in the help."""
        return self.metavar or ("KEY=VALUE" if self.container is dict else self.name.upper())

    @property
    def help(self) -> str:
        """The line of the help, with the default."""
        text, default = self.off or self.doc, self.shown
        if default is None and self.default not in (None, (), REQUIRED) and not self.is_switch:
            if self.container is tuple:
                default = (self.separator or " ").join(map(str, self.default))
            elif not callable(self.default):
                default = (
                    f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
                )
        return f"{text} (default: {default})" if default else text

    def read(self, text: str) -> Any:
        """One value from the text of a flag, not checked yet: the text itself where it is not of
        the option's kind."""
        if text in ("true", "false") and self.kind in (bool, Any):
            return text == "true"
        for kind in {int: (int,), float: (float,), Any: (int, float)}.get(self.kind, ()):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    def is_object(self, value: Any) -> bool:
        """True for an instance of one of `objects`."""
        return any(
            f"{cls.__module__}:{cls.__qualname__}" in self.objects for cls in type(value).__mro__
        )

    def checked(self, value: Any, where: str) -> Any:
        """The value in its type. Raises SettingError with the rule that it breaks."""
        if value is None and self.optional:
            return None
        if self.container is tuple:
            is_path = isinstance(value, str | os.PathLike) or self.is_object(value)
            any_one = self.kind is Any and (is_path or not isinstance(value, Sequence))
            if any_one or (is_path and self.separator is None):
                # one of a flag that may be repeated, or one value in place of a list of any values
                value = (value,)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise SettingError(where, self, f"must be a list; got {shown(value)}")
            return tuple(self._entry(item, where, number) for number, item in enumerate(value))
        if self.container is dict:
            if not isinstance(value, Mapping):
                raise SettingError(where, self, f"must be a mapping; got {shown(value)}")
            allowed = _listed(self.keys)
            for key in value:
                if not isinstance(key, str):
                    raise SettingError(where, self, f"must have names as keys; got {shown(key)}")
                if allowed and key not in allowed:
                    rule = f"is not one of {', '.join(allowed)}{did_you_mean(key, allowed)}"
                    raise SettingError(where, self, rule, key)
            return {key: self._entry(item, where, key) for key, item in value.items()}
        return self._entry(value, where)

    def _entry(self, value: Any, where: str, key: str | int | None = None) -> Any:
        """A value, or one of a tuple or mapping, in its type."""
        if self.is_object(value):
            return value
        try:
            if self.units and isinstance(value, str) and not math.isnan(count := number_of(value)):
                value = int(count) if self.kind is int and count.is_integer() else count
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

    def _check_bounds(self, value: float) -> None:
        for limit, words, holds in (
            (self.min, "at least", operator.ge),
            (self.above, "above", operator.gt),
            (self.max, "at most", operator.le),
            (self.below, "below", operator.lt),
        ):
            if limit is not None and not holds(value, limit):
                number = (
                    f"{limit:,.0f}"
                    if float(limit).is_integer() and abs(limit) <= 1e15
                    else f"{limit:g}"
                )
                raise ValueError(f"must be {words} {number}; got {shown(value)}")


def option(default: Any, doc: str, **facts: Any) -> Any:
    """A dataclass field that a user may set; `facts` are further fields of `Setting`."""
    metadata = {"setting": Setting(default=default, doc=doc, **facts)}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class SettingError(ConfigError):
    """An option with a wrong value. Its message names the option as Python does, `search.trials`;
    `by_flag` as the command line does, `--trials`."""

    def __init__(
        self, where: str, setting: Setting, rule: str, key: str | int | None = None
    ) -> None:
        """`rule` is the rest of the line: `must be at least 1; got 0`. `key`: of an entry in a
        mapping or tuple."""
        self.setting, self.rule, self.key = setting, rule, key
        entry = key if isinstance(key, str) else ""
        self.by_flag = f"{setting.spelling}{entry and ' '}{entry} {rule}"
        super().__init__(f"{where}.{setting.name}{entry and '.'}{entry} {rule}")


class MissingError(SettingError):
    """Options that must be given and are not."""

    def __init__(self, where: str, settings: Sequence[Setting]) -> None:
        verb = "is" if len(settings) == 1 else "are"
        super().__init__(
            where,
            settings[0],
            "".join(f"and {setting.name} " for setting in settings[1:]) + f"{verb} required",
        )
        self.by_flag = f"{' and '.join(setting.spelling for setting in settings)} {verb} required"


class Settings:
    """Base of the frozen dataclasses whose fields are options. Building one checks every field.

    A subclass names the place of its options in messages: `class Options(Settings,
    where="search")`.
    """

    where: ClassVar[str] = "settings"

    def __init_subclass__(cls, where: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if where is not None:
            cls.where = where

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            object.__setattr__(
                self, setting.name, setting.checked(getattr(self, setting.name), self.where)
            )

    @classmethod
    def setting(cls, name: str) -> Setting:
        """The option of that name. ConfigError for an unknown one, with the closest name."""
        known = {setting.name: setting for setting in settings_of(cls)}
        if name not in known:
            raise ConfigError(
                f"{cls.where} has no option {name!r}{did_you_mean(name, known)};"
                f" allowed: {', '.join(known)}"
            )
        return known[name]

    def wrong(self, name: str, rule: str) -> NoReturn:
        """Raise SettingError for a rule that a single field cannot state: `must be below seeds (4);
        got 5`."""
        raise SettingError(self.where, self.setting(name), rule)

    @classmethod
    def build(cls, **values: Any) -> Self:
        """The options with these keywords. Raises ConfigError for an unknown one and SettingError
        for a wrong value or one that must be given."""
        for name in values:
            cls.setting(name)
        missing = [
            setting
            for setting in settings_of(cls)
            if setting.default is REQUIRED and setting.name not in values
        ]
        if missing:
            raise MissingError(cls.where, missing)
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path | None, overrides: Mapping[str, Any]) -> Self:
        """Options from a YAML file, below those that are given otherwise.

        Args:
            path: a YAML file whose keys are option names; None: only the overrides and the
                defaults.
            overrides: option name -> value. They override the file, entries of mappings one by one;
                None: not given.

        Raises:
            ConfigError: with file and line for what is wrong in the file.
        """
        from flashnas.base.documents import LocatedDict, read_yaml

        data = read_yaml(path) if path is not None else LocatedDict()
        from_file = cls.read_options(data)
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
        options.refuse_connections(data, given)
        return options

    @classmethod
    def read_options(cls, data: LocatedDict) -> dict[str, Any]:
        """The options in a mapping of YAML; ConfigError with the line of an unknown key or a wrong
        value.
        """
        allowed = [setting.name for setting in settings_of(cls) if setting.yaml]
        for name in data:
            if name not in allowed:
                raise ConfigError(
                    f"{data.place(name)}: {cls.where} has no key"
                    f" {name!r}{did_you_mean(name, allowed)}; allowed: {', '.join(allowed)}"
                )
        try:
            from_file = {
                name: cls.setting(name).checked(value, cls.where) for name, value in data.items()
            }
        except SettingError as error:
            raise ConfigError(f"{place_of(data, error)}: {error}") from None
        return cls.expand_shorthands(from_file)

    def connections(self) -> Iterator[tuple[str, str | None]]:
        """Name every option, and every entry of a mapping, that makes flashnas connect to another
        machine.
        """
        for setting in settings_of(type(self)):
            if setting.connects(getattr(self, setting.name)):
                yield setting.name, None

    def refuse_connections(self, data: LocatedDict, given: Mapping[str, Any]) -> None:
        """Raise ConfigError, with the line, if a file makes flashnas connect to another machine.

        Args:
            data: the mapping of the file.
            given: what the user gives in the call, which overrides the file.
        """
        from flashnas.base.documents import LocatedDict

        for name, key in self.connections():
            entry, file, overrides = name, data, given
            if key is not None:
                entry, file, overrides = key, data.get(name, LocatedDict()), given.get(name, {})
            if entry in file and entry not in overrides:
                full_name, value = (
                    (name, "VALUE") if key is None else (f"{name}.{key}", f"{key}=VALUE")
                )
                raise ConfigError(
                    f"{file.place(entry)}: {self.where}.{full_name} connects to another machine,"
                    " which no file"
                    f" may ask for; give it on the command line: {self.setting(name).spelling}"
                    f" {value}"
                )

    @classmethod
    def expand_shorthands(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of one source with shorthands put in their place; see
        SearchConfig.budget_ms.
        """
        return values


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of two sources; the second one overrides, entries of mappings one by one."""
    return {
        **below,
        **{
            name: {**below[name], **value}
            if isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
            else value
            for name, value in above.items()
        },
    }


_SETTINGS: dict[type, tuple[Setting, ...]] = {}


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """The options of a class in the order of its fields."""
    if cls in _SETTINGS:
        return _SETTINGS[cls]
    hints = typing.get_type_hints(cls)
    return _SETTINGS.setdefault(
        cls,
        tuple(
            dataclasses.replace(
                field.metadata["setting"], name=field.name, **_kind_of(hints[field.name])
            )
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every subclass is one
            if "setting" in field.metadata
        ),
    )


def _kind_of(hint: Any) -> dict[str, Any]:
    """container, kind and optional of a Setting."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        optional = types.NoneType in parts
        hint = next(part for part in parts if part is not types.NoneType)
    container, inside = typing.get_origin(hint), typing.get_args(hint)
    if container in (tuple, dict):
        return {
            "container": container,
            "kind": inside[1 if container is dict else 0],
            "optional": optional,
        }
    return {"kind": hint, "optional": optional}


def _typed(value: Any, kind: Any) -> Any:
    """The value as one of that kind; ValueError with the rule that it breaks."""
    if kind is Any or (kind is bool and isinstance(value, bool)):
        return value
    if kind in (int, float) and not isinstance(value, bool):
        if kind is int and isinstance(value, numbers.Integral):
            return int(value)
        if kind is float and isinstance(value, numbers.Real):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number):
                raise ValueError(f"must be a finite number; got {shown(value)}")
            return number
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str):
            if "\0" in text:
                raise ValueError(f"must not hold a zero byte; got {shown(text)}")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"must be UTF-8 text; got {shown(text)}") from None
            return Path(text) if kind is Path else text
    raise ValueError(f"must be {_KINDS[kind]}; got {shown(value)}")


def _listed(choices: Choices) -> list[str]:
    return list(choices() if callable(choices) else choices)


def place_of(data: LocatedDict, error: SettingError) -> str:
    """`file.yaml:3`, where the wrong value or entry is."""
    from flashnas.base.documents import LocatedDict, LocatedList

    value, key = data.get(error.setting.name), error.key
    if isinstance(value, LocatedDict) and isinstance(key, str) and key in value:
        return value.place(key)
    if isinstance(value, LocatedList) and isinstance(key, int):
        return value.place(key)
    return data.place(error.setting.name)
