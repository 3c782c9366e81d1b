"""Values in the types of annotations: the one check of flags, keywords, keys of YAML, and files that a
program has written.

    typed({"loss": "low"}, Score)      Misfit: rule "must be a number; got 'low'", steps ("loss",)

A caller puts the place in front, and says by `leaf` what else holds of each single value: see
`settings.Setting` and `documents.convert`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashnas.base.errors import FlashnasError
from flashnas.base.text import one_of, printable, shown

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    list: "a list",
    dict: "a mapping",
}
UNIONS = (typing.Union, types.UnionType)
Leaf = Callable[[Any, Any, Any], Any]


class Misfit(ValueError):
    """A value that breaks a rule.

    rule: `must be a number; got 'low'`, or a whole sentence that a class says of its fields. steps: the
    keys and numbers of entries that lead to the value.
    """

    def __init__(self, rule: str, *steps: Any, sentence: bool = False) -> None:
        super().__init__(rule)
        self.rule, self.steps, self.sentence = rule, steps, sentence

    def line(self, name: str) -> str:
        """With the name of the whole: `training.curve[2] must be ..`."""
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        where = f"{name}{path}".lstrip(".")
        if self.sentence:
            return f"{where}: {self.rule}" if path else self.rule
        return f"{where or 'the content'} {self.rule}"


def scalar(value: Any, kind: Any, _: Any = None, *, finite: bool = True) -> Any:
    """A single value as one of `int`, `float`, `bool`, `str`, `Path` or, as it is, `Any`: true is no
    number, 1.0 no whole number, and a whole number is a number, too."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and (kind is float or (kind is Any and isinstance(value, float))):
        with contextlib.suppress(OverflowError):
            made = float(value)
            if math.isfinite(made) or not finite:
                return made
        raise Misfit(f"must be a finite number; got {shown(value)}")
    if kind is int and number and isinstance(value, numbers.Integral):
        return int(value)
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, bytes) or not _is_text(text):
            raise Misfit(f"must be UTF-8 text without zero bytes; got {shown(value)}")
        return kind(text)
    if kind is Any or (kind is bool and isinstance(value, bool)):
        return value
    raise Misfit(f"must be {WORDS[kind]}; got {shown(value)}")


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def typed(value: Any, kind: Any, leaf: Leaf = scalar, step: Any = None) -> Any:
    """The value as one of the type `kind`: a dataclass or TypedDict (further keys are ignored), a list,
    tuple, mapping, union or literal of others, or what `leaf(value, kind, step)` takes.

    step: the key or number of the entry that the value is.

    Raises:
        Misfit: with the rule that it breaks.
    """
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in UNIONS:
        return _of_union(value, parts, leaf, step)
    if origin is typing.Literal:
        if value not in parts:
            raise Misfit(one_of("", value, map(str, parts)).strip())
        return value
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _record(value, kind, leaf)
    if origin in (dict, Mapping):
        made = _mapping(value)
        if not_text := [key for key in made if not isinstance(key, str)]:
            raise Misfit(f"must have names as keys; got {shown(not_text[0])}")
        return {key: _entry(item, parts[1], leaf, key) for key, item in made.items()}
    if origin in (list, tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise Misfit(f"must be a list; got {shown(value)}")
        kinds = parts if origin is tuple and ... not in parts else parts[:1] * len(value)
        if len(kinds) != len(value):
            raise Misfit(f"must be a list of length {len(kinds)}; got {shown(value)}")
        entries = [
            _entry(item, part, leaf, number)
            for number, (item, part) in enumerate(zip(value, kinds, strict=True))
        ]
        return tuple(entries) if origin is tuple else entries
    if kind is Any and isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _entry(item, Any, leaf, key)
        return value
    return leaf(value, kind, step)


def _entry(value: Any, kind: Any, leaf: Leaf, step: Any) -> Any:
    try:
        return typed(value, kind, leaf, step)
    except Misfit as error:
        raise Misfit(error.rule, step, *error.steps, sentence=error.sentence) from None


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise Misfit(f"must be a mapping; got {shown(value)}")
    return value


def _of_union(value: Any, parts: Sequence[Any], leaf: Leaf, step: Any) -> Any:
    kinds = [part for part in parts if part is not types.NoneType]
    if value is None and len(kinds) < len(parts):
        return None
    for kind in kinds:
        try:
            return typed(value, kind, leaf, step)
        except Misfit:
            if len(kinds) == 1:
                raise
    words = [WORDS.get(typing.get_origin(kind) or kind) or repr(*kind.__args__) for kind in kinds]
    raise Misfit(f"must be {' or '.join(words)}; got {shown(value)}")


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Name -> the type, and whether it must be given."""
    hints = typing.get_type_hints(kind)
    if typing.is_typeddict(kind):
        return {name: (hint, kind.__total__) for name, hint in hints.items()}
    return {
        field.name: (
            hints[field.name],
            field.default is field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
        if field.init
    }


def _record(value: Any, kind: Any, leaf: Leaf) -> Any:
    data, made = _mapping(value), {}
    for name, (hint, needed) in _fields(kind).items():
        if name in data:
            made[name] = _entry(data[name], hint, leaf, name)
        elif needed:
            raise Misfit(f"needs the key {name!r}")
    try:
        return kind(**made)
    except Misfit:
        raise
    except (ValueError, FlashnasError) as error:
        raise Misfit(str(error), sentence=True) from None


def place_of(data: Any, steps: Sequence[Any], place: str | Path = "") -> str:
    """Of the last entry on the way that knows its line in a file, else `place`."""
    for step in (None, *steps):
        if hasattr(data, "place"):
            place = data.place(step)
        data = data if step is None else data[step]
    return printable(place)
