"""One option: how it is spelled, its line in the help, what values it takes, and the messages for others."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean, one_of

REQUIRED = MISSING            # the default of an option that must be given
SHOWN_CHARACTERS = 120        # of a wrong value in a message
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}

Choices = Iterable[str] | Callable[[], Iterable[str]]


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


def _listed(choices: Choices) -> list[str]:
    return list(choices() if callable(choices) else choices)


def _check_text(text: str, key: str | int | None) -> None:
    if "\0" in text:
        raise _RuleError(f"must not hold a zero byte; got {shown(text)}", key)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RuleError(f"must be UTF-8 text; got {shown(text)}", key) from None
