"""From parsed JSON or YAML to dataclasses: the one statement of what a file holds is the dataclass
itself.

    header = convert(data, Header, f"{file}: header", BenchError, name="header")

    bench.parquet: header.vocab must be a whole number; got 'many'

A value must have the type of its field: true is not a number, and 1.0 is not a whole number; a
whole number is a float, too. Types are those that msgspec converts. Rules between fields belong
into `__post_init__`, which raises ValueError with the rule. Keys that the dataclass does not have
are ignored, so that a newer version's file can be read, unless `closed=True`. Options that a user
sets, and recipes, are `settings.Settings`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any, TypeVar

from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.hints import did_you_mean, one_of, printable, shown
from flashnas.base.yaml import LocatedDict, LocatedList

T = TypeVar("T")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_TYPES = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}


def convert(
    data: Any,
    kind: type[T],
    place: str | Path = "",
    error: type[FlashnasError] = ConfigError,
    *,
    name: str = "",
    closed: bool = False,
    finite: bool = True,
) -> T:
    """Parsed data as an object of a type.

    Args:
        kind: a dataclass, or a type such as `dict[str, float]`.
        place: where the data is from; not needed for what `read_yaml` returned.
        name: what the data is, before the names of fields in messages: `training`.
        closed: refuse keys that the dataclass does not have.
        finite: refuse infinite numbers and NaN.

    Raises:
        FlashnasError: of the class `error`, in one line with place, rule and value.
    """
    import msgspec  # 28 ms, which only commands that read files pay

    if closed and isinstance(data, dict) and dataclasses.is_dataclass(kind):
        allowed = [field.name for field in dataclasses.fields(kind)]
        for key in data:
            if key not in allowed:
                raise error(
                    f"{_place(data, key, place)}: {name or 'it'} has no key {key!r}"
                    f"{did_you_mean(key, allowed)}; allowed: {', '.join(allowed)}"
                )
    try:
        made = msgspec.convert(data, kind)
    except msgspec.ValidationError as caught:
        raise error(_line(str(caught), data, kind, place, name)) from None
    except FlashnasError as caught:  # of a __post_init__
        raise error(f"{_place(data, None, place)}: {caught}") from None
    if finite and (where := _infinite(data)) is not None:
        value, at, path = _walk(data, where, place)
        raise error(f"{at}: {_joined(name, path)} must be a finite number; got {shown(value)}")
    return made


def _line(message: str, data: Any, kind: Any, place: str | Path, name: str) -> str:
    """`file:3: training.loss must be a number; got 'low'` from "Expected `float`, got `str` - at
    `$.loss`".
    """
    rule, _, path = message.partition(" - at `")
    key = path.startswith("key` in `")  # a key of a mapping is not text
    path = path.removeprefix("key` in `")
    steps: list[Any] = [
        int(step) if step.isdigit() else step
        for step in re.findall(r"\.\.\.|\w+", path.rstrip("`").removeprefix("$"))
    ]
    expected, _, got = rule.partition(", got ")
    value, at, path = _walk(data, steps, place, got.strip("`"))
    where = _joined(name, path)
    if key:
        return f"{at}: {where} must have names as keys; got {shown(value)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", rule):
        return f"{at}: {where} needs the key {missing[1]!r}"
    if rule.startswith("Expected "):
        words = re.sub(
            r"`([^`]*)`",
            lambda types: " or ".join(_WORDS.get(word, word) for word in types[1].split(" | ")),
            expected.removeprefix("Expected "),
        )
        return f"{at}: {where} must be {words}; got {shown(value)}"
    if rule.startswith("Invalid enum value"):
        hint = typing.get_type_hints(kind).get(steps[0]) if len(steps) == 1 else None
        allowed = [
            str(word)
            for part in (hint, *typing.get_args(hint))
            for word in typing.get_args(part)
            if isinstance(word, str)
        ]
        return f"{at}: {one_of(where, value, allowed) if allowed else f'{where} must not be {shown(value)}'}"
    if rule == "Number out of range":
        return f"{at}: {where} must be a number in range; got {shown(value)}"
    return f"{at}: {_joined(name, path) + ': ' if path else ''}{rule}"  # of a __post_init__


def _walk(data: Any, steps: list[Any], place: str | Path, got: str = "") -> tuple[Any, str, str]:
    """-> the value at the end of the steps, its place, and the steps as text: `figures.loss`,
    `curve[2]`. msgspec does not say which key `...` is; it is taken to be the first whose value has
    the type that is refused."""
    at, path = _place(data, None, place), ""
    for step in steps:
        if step == "..." and isinstance(data, dict):
            step = next(
                (
                    key
                    for key, value in data.items()
                    if got
                    == _TYPES.get(type(value), "object" if isinstance(value, dict) else "array")
                ),
                "...",
            )
        inside = (
            step in data
            if isinstance(data, dict)
            else isinstance(data, list) and isinstance(step, int)
        )
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
        if not inside:
            break
        at, data = _place(data, step, place), data[step]
    return data, at, path.lstrip(".")


def _place(data: Any, step: Any, place: str | Path) -> str:
    if isinstance(data, LocatedDict | LocatedList):
        return printable(data.place(step))
    return printable(place)


def _joined(name: str, path: str) -> str:
    return ".".join(part for part in (name, path) if part).replace(".[", "[") or "the content"


def _infinite(data: Any) -> list[Any] | None:
    """The steps to the first number that is not finite; None if all are."""
    if isinstance(data, float):
        return None if math.isfinite(data) else []
    if not isinstance(data, dict | list | tuple):
        return None
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if (
            isinstance(value, float | dict | list | tuple)
            and (rest := _infinite(value)) is not None
        ):
            return [key, *rest]
    return None
