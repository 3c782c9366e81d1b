"""What a network remembers of the sequences that it has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class HybridCache:
    """One state per operator; continue a cache only once (key/value caches are written in place)."""

    states: tuple[Any, ...]

    @property
    def kept_bytes(self) -> int:
        """Bytes of all caches and states, the whole batch; equals batch x Architecture.cache_bytes."""
        return sum(state_bytes(state) for state in self.states)


def state_bytes(state: Any) -> int:
    """Bytes of the state of one layer: a tensor, a tuple of states, None, or an object with `kept_bytes`."""
    if isinstance(state, Tensor):
        return state.nbytes
    if hasattr(state, "kept_bytes"):
        return int(state.kept_bytes)
    return sum(map(state_bytes, state or ()))
