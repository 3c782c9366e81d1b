"""The notation of architectures, as in the paper: `2048: d f m2 f a f m2 f`.

Repeats are written `2048: 3x(d f m2 f)`, options of an operator `a(heads=32,kv_heads=8)`, options
of the header `2048(vocab=32000,tied=false,meta=256): ...`.
"""

import functools
import re
from typing import Any

from flashnas.base.documents import read_yaml
from flashnas.base.errors import ArchitectureError
from flashnas.base.registry import PACKAGE
from flashnas.base.text import plain_number, shown
from flashnas.operators import OPERATORS, OperatorSpec

MAX_OPERATORS = 4096  # guards repeats such as 99999x(...)
_TOKEN = re.compile(
    r"\s*(?:(?P<repeat>[0-9]{1,18})\s*x\s*\(|(?P<close>\))|(?P<kind>[A-Za-z][A-Za-z0-9_]*)"
    r"(?:\((?P<options>[^()]*)\))?)"
)


def is_notation(text: str) -> bool:
    """True if `text` looks like a notation and not like a path or a preset."""
    return ":" in text and re.match(r"\s*[0-9]+\s*(\(|:)", text) is not None


def split_notation(text: str) -> tuple[int, dict[str, Any], str]:
    """Split a notation into its width, the options of its header, and the text of its operators.

    Raises:
        ArchitectureError: for text that does not read `WIDTH: OPERATORS`.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:\(([^()]*)\))?\s*:(.*)", text, re.DOTALL)
    if not match:
        raise ArchitectureError(
            "architecture must read 'WIDTH: OPERATORS', such as '2048: 3x(d f m2 f)';"
            f" got {shown(text.strip())}"
        )
    return int(match[1]), _parse_options(match[2] or "", "header"), match[3]


@functools.lru_cache(maxsize=4096)
def parse_operators(text: str) -> tuple[OperatorSpec, ...]:
    """Parse `d f 2x(m2 f) a(heads=8)` into operators; raises ArchitectureError or OperatorError."""
    stack: list[tuple[int, list[OperatorSpec]]] = [(1, [])]
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ArchitectureError(
                f"operators: cannot read {text[position:].strip()[:20]!r};"
                " write them apart by spaces, repeats as 3x(d f)"
            )
        position = match.end()
        if match["repeat"]:
            if int(match["repeat"]) < 1:
                raise ArchitectureError(
                    f"operators: a repeat must be at least 1; got {match['repeat']}"
                )
            stack.append((int(match["repeat"]), []))
        elif match["close"]:
            if len(stack) == 1:
                raise ArchitectureError(f"operators: ')' without its '(' in {shown(text.strip())}")
            times, inner = stack.pop()
            if times * len(inner) > MAX_OPERATORS:
                raise ArchitectureError(
                    f"operators: at most {MAX_OPERATORS}; got {times} x {len(inner)}"
                )
            stack[-1][1].extend(inner * times)
        else:
            stack[-1][1].append(_operator(match["kind"], match["options"] or ""))
    if len(stack) > 1:
        raise ArchitectureError(f"operators: '(' without its ')' in {shown(text.strip())}")
    return tuple(stack[0][1])


@functools.lru_cache(maxsize=4096)
def _operator(kind: str, options: str) -> OperatorSpec:
    return OPERATORS[kind].from_options(_parse_options(options, f"operator {kind!r}"))


def _parse_options(text: str, where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise ArchitectureError(f"{where}: options must read key=value; got {shown(part)}")
        if key in options:
            raise ArchitectureError(f"{where}: duplicate option {key!r}")
        options[key] = _parse_value(value, f"{where}: {key}")
    return options


def _parse_value(text: str, place: str) -> int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return plain_number(text, number)
        except ValueError:
            continue
    raise ArchitectureError(f"{place} must be a number, true or false; got {shown(text)}")


@functools.cache
def preset_notations() -> dict[str, str]:
    """Name -> notation."""
    return dict(read_yaml(PACKAGE / "architecture" / "presets.yaml"))
