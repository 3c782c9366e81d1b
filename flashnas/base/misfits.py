"""The line about data that does not fit its dataclass: place, field, rule and value."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from flashnas.base.text import one_of, printable, shown

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


def misfit_line(message: str, data: Any, kind: Any, place: str | Path, name: str) -> str:
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
    value, at, path = walk(data, steps, place, got.strip("`"))
    where = field_name(name, path)
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
    return f"{at}: {field_name(name, path) + ': ' if path else ''}{rule}"  # of a __post_init__


def walk(data: Any, steps: list[Any], place: str | Path, got: str = "") -> tuple[Any, str, str]:
    """-> the value at the end of the steps, its place, and the steps as text: `figures.loss`,
    `curve[2]`. msgspec does not say which key `...` is; it is taken to be the first whose value has
    the type that is refused."""
    at, path = entry_place(data, None, place), ""
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
        at, data = entry_place(data, step, place), data[step]
    return data, at, path.lstrip(".")


def entry_place(data: Any, step: Any, place: str | Path) -> str:
    return printable(data.place(step) if hasattr(data, "place") else place)


def field_name(name: str, path: str) -> str:
    return ".".join(filter(None, (name, path))).replace(".[", "[") or "the content"
