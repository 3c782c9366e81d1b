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
Leaf = Callable[[Any, Any, tuple[Any, ...]], Any]


class Misfit(ValueError):
    """A value that breaks a rule.

    rule: `must be a number; got 'low'`, or a whole sentence that a class says of its fields. steps: the
    keys and numbers of entries that lead to the value.
    """

    def __init__(self, rule: str, steps: tuple[Any, ...], *, sentence: bool = False) -> None:
        super().__init__(rule)
        self.rule, self.steps, self.sentence = rule, steps, sentence

    def line(self, name: str) -> str:
        """With the name of the whole: `training.curve[2] must be ..`."""
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        where = f"{name}{path}".lstrip(".")
        if self.sentence:
            return f"{where}: {self.rule}" if path else self.rule
        return f"{where or 'the content'} {self.rule}"


def scalar(value: Any, kind: Any, steps: tuple[Any, ...] = (), *, finite: bool = True) -> Any:
    """A single value as one of `int`, `float`, `bool`, `str`, `Path` or, as it is, `Any`: true is no
    number, 1.0 no whole number, and a whole number is a number, too."""
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        with contextlib.suppress(UnicodeEncodeError, TypeError):  # TypeError: a path of bytes
            text = os.fspath(value)
            if b"\0" not in text.encode():
                return kind(text)
        raise Misfit(f"must be UTF-8 text without zero bytes; got {shown(value)}", steps)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and (kind is float or (kind is Any and isinstance(value, float))):
        with contextlib.suppress(OverflowError):
            made = float(value)
            if math.isfinite(made) or not finite:
                return made
        raise Misfit(f"must be a finite number; got {shown(value)}", steps)
    if kind is int and number and isinstance(value, numbers.Integral):
        return int(value)
    if kind is Any or (kind is bool and isinstance(value, bool)):
        return value
    raise Misfit(f"must be {WORDS[kind]}; got {shown(value)}", steps)


def typed(value: Any, kind: Any, leaf: Leaf = scalar, steps: tuple[Any, ...] = ()) -> Any:
    """The value as one of the type `kind`: a dataclass or TypedDict (further keys are ignored), a list,
    tuple, mapping, union or literal of others, or what `leaf(value, kind, steps)` takes.

    steps: to the value, from the whole.

    Raises:
        Misfit: with the rule that it breaks.
    """
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _of_union(value, parts, leaf, steps)
    if origin is typing.Literal:
        if value not in parts:
            raise Misfit(one_of("", value, map(str, parts)).strip(), steps)
        return value
    is_record = dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)
    if is_record or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise Misfit(f"must be a mapping; got {shown(value)}", steps)
        if is_record:
            return _record(value, kind, leaf, steps)
        for key in value:
            if not isinstance(key, str):
                raise Misfit(f"must have names as keys; got {shown(key)}", steps)
        return {key: typed(item, parts[1], leaf, (*steps, key)) for key, item in value.items()}
    if origin in (list, tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise Misfit(f"must be a list; got {shown(value)}", steps)
        kinds = parts if origin is tuple and ... not in parts else parts[:1] * len(value)
        if len(kinds) != len(value):
            raise Misfit(f"must be a list of length {len(kinds)}; got {shown(value)}", steps)
        entries = [typed(each, kinds[n], leaf, (*steps, n)) for n, each in enumerate(value)]
        return tuple(entries) if origin is tuple else entries
    if kind is Any and isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            typed(item, Any, leaf, (*steps, key))
        return value
    return leaf(value, kind, steps)


def _of_union(value: Any, parts: Sequence[Any], leaf: Leaf, steps: tuple[Any, ...]) -> Any:
    kinds = [part for part in parts if part is not types.NoneType]
    if value is None and len(kinds) < len(parts):
        return None
    if len(kinds) == 1:
        return typed(value, kinds[0], leaf, steps)
    for kind in kinds:
        with contextlib.suppress(Misfit):
            return typed(value, kind, leaf, steps)
    words = [WORDS.get(typing.get_origin(kind) or kind) or repr(*kind.__args__) for kind in kinds]
    raise Misfit(f"must be {' or '.join(words)}; got {shown(value)}", steps)


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


def _record(data: Mapping[str, Any], kind: Any, leaf: Leaf, steps: tuple[Any, ...]) -> Any:
    made = {}
    for name, (hint, needed) in _fields(kind).items():
        if name in data:
            made[name] = typed(data[name], hint, leaf, (*steps, name))
        elif needed:
            raise Misfit(f"needs the key {name!r}", steps)
    try:
        return kind(**made)
    except (ValueError, FlashnasError) as error:
        raise Misfit(str(error), steps, sentence=True) from None


def place_of(data: Any, steps: Sequence[Any], place: str | Path = "") -> str:
    """Of the last entry on the way that knows its line in a file, else `place`."""
    for step in (None, *steps):
        if isinstance(data, str):  # of a list in one text
            break
        if hasattr(data, "place"):
            place = data.place(step)
        data = data if step is None else data[step]
    return printable(place)
