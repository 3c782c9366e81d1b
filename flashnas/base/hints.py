"""Small helpers for messages."""

import difflib
import os
import re
import sys
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

SHOWN_CHARACTERS = 120  # of a wrong value in a message


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the closest allowed value, or an empty string."""
    close = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(place: str, value: object, allowed: Iterable[str]) -> str:
    """The one line for a value outside a closed list."""
    allowed = list(allowed)
    return (
        f"{place} must be one of {', '.join(allowed)}; got {value!r}{did_you_mean(value, allowed)}"
    )


def shown(value: Any) -> str:
    """A wrong value in a message: as Python writes it, cut where it is long."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # of a whole number with thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}.."


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path in a message: as it is, or as `shown` where that is not one short line."""
    text = os.fspath(path)
    return text if text.isprintable() and len(text) <= SHOWN_CHARACTERS else shown(text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])


def first_sentence(text: str) -> str:
    """The first sentence of a docstring or comment, without its full stop."""
    return re.split(r"(?<=[\w)\]`])\.(?:\s|$)", " ".join(text.partition("\n\n")[0].split()))[0]


def printable(text: object) -> str:
    """Foreign text for one line of a terminal: control characters, line ends included, as Python
    escapes them."""
    text = os.fspath(text) if isinstance(text, os.PathLike) else str(text)
    return (
        text
        if text.isprintable()
        else "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in text
        )
    )


def duration(seconds: float, decimals: int = 0) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`; `decimals` of the seconds are shown below a minute."""
    if round(seconds, decimals) < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def warn(text: str) -> None:
    """Warn the user of the API, at the line of their own code that called flashnas."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while (
        frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "flashnas"
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


class PluginWarning(UserWarning):
    """A plugin that is left out; the command line shows its line alone."""


def warn_of_plugin(text: str) -> None:
    """Warn that a plugin is left out, or slow; the same line once in a process."""
    warnings.warn_explicit(text, PluginWarning, "flashnas", 0, registry=_SAID)


_SAID: dict[Any, Any] = {}
