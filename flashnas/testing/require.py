"""One way to fail: an AssertionError with one line, also under `python -O`."""

from __future__ import annotations


def require(condition: object, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)
