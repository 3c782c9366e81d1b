"""Observation: a number about a network, which somebody has trained or timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What an observed loss (`losses.py`) and an observed time (`times.py`) share.

    source: an arXiv number, the name
    of a run, or `own`. noise: standard deviation that another seed, or another repeat, has; None:
    the usual one of its source. place: file and line, where it was read from a file.

    Example:
        >>> import flashnas as fn
        >>> issubclass(fn.ObservedLoss, fn.Observation), issubclass(fn.ObservedTime, fn.Observation)
        (True, True)
    """

    source: str = ""
    noise: float | None = None
    place: str = ""
