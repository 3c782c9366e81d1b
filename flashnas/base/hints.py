"""Small helpers for messages."""

import difflib
import sys
import warnings
from collections.abc import Iterable
from types import FrameType


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the closest allowed value, or an empty string."""
    close = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(place: str, value: object, allowed: Iterable[str]) -> str:
    """The one line for a value outside a closed list."""
    allowed = list(allowed)
    return f"{place} must be one of {', '.join(allowed)}; got {value!r}{did_you_mean(value, allowed)}"


def duration(seconds: float, decimals: int = 0) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`; `decimals` of the seconds are shown below a minute."""
    if round(seconds, decimals) < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def warn(text: str) -> None:
    """Warn the user of the API, at the line of their own code that called flashnas."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "flashnas":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
