"""Options as documented fields of frozen dataclasses: the one statement of what a user may set.
Flags, keys of YAML, help text and keywords in Python follow from the fields of one class, and one
check (typed.py) gives the same message for all:

    @dataclass(frozen=True, kw_only=True)
    class ReportOptions(Settings, where="report"):
        run: str = option(REQUIRED, "run folder", positional=True)
        width: int = option(900, "of the picture, in pixels", min=100, max=10_000)

    ReportOptions(run="a", width=3)            report.width must be at least 100; got 3
    flashnas report a --width 3                flashnas report: --width must be at least 100; got 3
    ReportOptions.build(read_yaml(file))       settings.yaml:2: report.width must be at least 100; got 3

What a program writes and reads back is a plain dataclass: see documents.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self

from flashnas.base.errors import ConfigError
from flashnas.base.text import MAX_TOKENS as MAX_TOKENS
from flashnas.base.text import has_no, number_of, one_of, plain_number, shown
from flashnas.base.typed import Misfit, place_of, scalar, typed

REQUIRED: Any = object()  # the default of an option that must be given
MAX_SEED = 2**32 - 1  # what NumPy's older generators accept, which Optuna's samplers use
MAX_THREADS = 1024  # of one process, and processes of one machine
BOUNDS = {
    "min": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "max": ("at most", operator.le),
    "below": ("below", operator.lt),
}
GIVE_IT = "which no file may ask for; give it as a flag or a keyword"

Choices = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option, as `option` declares it.

    name, where (its class in messages) and type follow from the field. A default that is a function
    makes a fresh value; REQUIRED: a value must be given.
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
    # of this "module:Class", "type[module:Class]" or "Callable", or one of several with " | " between
    # them, an object may be given for a name, in Python
    instance: str = ""
    separator: str | None = None  # of a tuple in one text; None: the flag is repeated
    # on the command line
    flag: str = ""  # where it is not the name with dashes: `-n --count`; messages use the first one
    metavar: str | None = None  # in the help; in brackets: the value may be left out, ..
    bare: str | None = None  # .. which means this one
    positional: bool = False  # without a flag
    heading: str = ""  # of the group in the help that begins here
    off: str | None = None  # of what is true by default: what `--no-<name>` does
    flagged: bool = True  # False: a key of the file of --config alone
    # in files. False for what starts a program or names a class, names files to write, or belongs
    # to one call
    yaml: bool = True
    connects: Callable[[Any], bool] = lambda _: False  # to another machine: not taken from a file
    identity: bool = True  # of a search: a run is continued only with the same value
    name: str = ""
    where: str = ""
    type: Any = str

    @property
    def without_none(self) -> Any:
        """The type of a value that is given."""
        parts = typing.get_args(self.type)
        return parts[0] if types.NoneType in parts else self.type

    @property
    def container(self) -> Any:
        """tuple, dict or None."""
        return typing.get_origin(self.without_none)

    @property
    def kind(self) -> Any:
        """Of each value; Any: any."""
        parts = typing.get_args(self.without_none)
        return parts[self.container is dict] if parts else self.without_none

    @property
    def is_switch(self) -> bool:
        """True for an option that its flag alone sets."""
        return self.without_none is bool

    @property
    def bounds(self) -> Iterator[tuple[str, float, Callable[[Any, Any], bool]]]:
        """`at least`, the number, and the comparison that holds."""
        for name, (words, holds) in BOUNDS.items():
            if (limit := getattr(self, name)) is not None:
                yield words, limit, holds

    @property
    def instance_words(self) -> str:
        """`LatencyTable | Callable`."""
        return re.sub(r"[\w.]+:", "", self.instance)

    def is_object(self, value: Any) -> bool:
        """True for an `instance`."""
        is_class, allowed = isinstance(value, type), self.instance.split(" | ")
        classes = (value if is_class else type(value)).__mro__
        names = [f"{cls.__module__}:{cls.__qualname__}" for cls in classes]
        names = [f"type[{name}]" for name in names] if is_class else names
        is_function = callable(value) and not is_class and "Callable" in allowed
        return is_function or not {*names}.isdisjoint(allowed)

    def checked(self, value: Any) -> Any:
        """The value in its type. Raises SettingError with the rule that it breaks."""
        if value is REQUIRED:
            raise SettingError(self, f"is required: {self.doc}")
        if self.container is tuple and (
            isinstance(value, str | os.PathLike) or self.is_object(value)
        ):
            listed = isinstance(value, str) and self.separator is not None
            value = [text.strip() for text in value.split(self.separator)] if listed else [value]
        try:
            return typed(value, self.type, self._entry)
        except Misfit as error:
            raise SettingError(self, error.rule, *error.steps[:1]) from None

    def _entry(self, value: Any, kind: Any, steps: tuple[Any, ...]) -> Any:
        """A value, or one of a tuple or mapping, in its type."""
        if self.is_object(value):
            return value
        if isinstance(value, str) and kind in (int, float):
            value = _number(value, steps[-1] if steps else self.name)
        if self.instance and not isinstance(value, str | os.PathLike):
            raise Misfit(f"must be text or {self.instance_words}; got {shown(value)}", steps)
        value = scalar(value, kind, steps)
        if value == "" and "" not in (self.default, self.bare):
            raise Misfit("must not be empty; got ''", steps)
        for words, choices in ((steps, self.keys), ([value], self.choices)):
            allowed = list(choices() if callable(choices) else choices)
            for word in words:
                if allowed and word not in allowed:
                    raise Misfit(one_of("", word, allowed).strip(), steps)
        for rule, limit, holds in self.bounds:
            if not holds(value, limit):
                raise Misfit(f"must be {rule} {limit:,}; got {shown(value)}", steps)
        return value


def _number(text: str, name: Any) -> str | float:
    """The number that a text is, such as 1e6 or 64k; else the text. 4000M of `memory_gb` is none."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return plain_number(text, kind)
    number = number_of(text)
    if math.isnan(number) or str(name).endswith("_gb"):
        return text
    return int(number) if number.is_integer() else number


def option(default: Any, doc: str, **facts: Any) -> Any:
    """A dataclass field that a user may set; `facts` are further fields of `Setting`."""
    metadata = {"setting": Setting(default=default, doc=doc, **facts)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class SettingError(ConfigError):
    """An option with a wrong value; its message names the option as Python does, `search.trials`.

    Args:
        rule: the rest of the line: `must be at least 1; got 0`.
        key: of an entry in a mapping or tuple.
    """

    def __init__(self, setting: Setting, rule: str, key: str | int | None = None) -> None:
        self.setting, self.rule, self.key = setting, rule, key
        super().__init__(f"{setting.where}.{self.line(setting.name, '.')}")

    def line(self, name: str, separator: str) -> str:
        """The message with the option called so."""
        entry = f"{separator}{self.key}" if isinstance(self.key, str) else ""
        return f"{name}{entry} {self.rule}"


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
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name)))

    @classmethod
    def setting(cls, name: str) -> Setting:
        """The option of that name. ConfigError for an unknown one, with the closest name."""
        if name in cls.gone:
            raise ConfigError(f"{cls.where}.{name} of 0.2.0 is gone; {cls.gone[name]}")
        by_name = {setting.name: setting for setting in settings_of(cls)}
        if name not in by_name:
            raise ConfigError(has_no(cls.where, "option", name, by_name))
        return by_name[name]

    def wrong(self, name: str, rule: str) -> NoReturn:
        """Raise SettingError for a rule of several fields: `must be below seeds (4); got 5`."""
        raise SettingError(self.setting(name), rule)

    @classmethod
    def build(cls, *files: Mapping[str, Any], **given: Any) -> Self:
        """The options of mappings that files hold (`read_yaml`) and of keywords. Each source overrides
        those before it, entries of mappings one by one.

        Raises:
            ConfigError: for an unknown option, a wrong value, or one that must be given; of a file
                with its line.
        """
        sources, values = [*files, given], dict[str, Any]()
        for source in sources:
            for name in source:
                try:
                    setting = cls.setting(name)
                    if hasattr(source, "place") and not setting.yaml:
                        raise SettingError(setting, f"is of one call, {GIVE_IT}")
                except ConfigError as error:
                    raise _located(error, [source], name) from None
            values = cls.over(values, source)
        try:
            options = cls(**values)
        except SettingError as error:
            raise _located(error, sources, error.setting.name, error.key) from None
        for name, key in options.connections():
            refused = SettingError(
                cls.setting(name), f"connects to another machine, {GIVE_IT}", key
            )
            if (located := _located(refused, sources, name, key)) is not refused:
                raise located
        return options

    def connections(self) -> Iterator[tuple[str, str | None]]:
        """The options, and entries of mappings, that make flashnas connect to another machine."""
        for setting in settings_of(type(self)):
            if setting.connects(getattr(self, setting.name)):
                yield setting.name, None

    @classmethod
    def over(cls, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        """The values of two sources; the second one overrides, entries of mappings one by one."""
        values = {**below, **above}
        for name, value in above.items():
            if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
                values[name] = {**below[name], **value}
        return values


def _located(
    error: ConfigError,
    sources: Sequence[Mapping[str, Any]],
    name: str,
    key: str | int | None = None,
) -> ConfigError:
    """The error behind `file.yaml:3: `, where the last source with this option, or entry, is a file."""
    for source in reversed(sources):
        entry = source.get(name, ())
        if name in source and (not isinstance(key, str) or key in entry):
            place = place_of(source, (name,) if key is None else (name, key))
            return ConfigError(f"{place}: {error}") if place else error
    return error


_SETTINGS: dict[type, tuple[Setting, ...]] = {}


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """The options of a class in the order of its fields."""
    if cls not in _SETTINGS:
        hints = typing.get_type_hints(cls)
        _SETTINGS[cls] = tuple(
            dataclasses.replace(
                field.metadata["setting"], name=field.name, where=cls.where, type=hints[field.name]
            )
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every subclass is one
            if "setting" in field.metadata
        )
    return _SETTINGS[cls]
