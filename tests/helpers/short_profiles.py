"""Profiles that take little effort, where nobody reads how exact their times are."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from flashnas.profiling import platforms, regression, timing


def with_short_profiles(patch: Any) -> None:
    """Each network is timed in one round and each call once, and few networks are drawn, until `patch`
    is undone."""
    room = importlib.import_module("flashnas.profiling.profile")
    patch.setattr(room, "profile", functools.partial(room.profile, rounds=1))
    patch.setattr(timing, "LEAST", 1)
    patch.setattr(timing, "MOST", 1)
    patch.setattr(platforms, "COPIED_BYTES", 2**20)
    patch.setattr(platforms.Cpu, "product_size", 64)
    patch.setattr(regression, "BOOTSTRAPS", 20)
    patch.setattr(regression, "POOL", 8)
