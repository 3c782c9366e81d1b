"""What a network remembers of the sequences that it has read."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from flashnas.base.errors import OperatorError
from flashnas.operators.attention.cache import KeyValueCache

# the cache of a network: one state per operator; continue it only once (steps write into it)
HybridCache = tuple[Any, ...]


def state_bytes(state: Any) -> int:
    """Bytes of a state for the whole batch: a tensor, a tuple of states, None, or an object with
    `kept_bytes`.
    """
    if isinstance(state, Tensor):
        return state.nbytes
    if hasattr(state, "kept_bytes"):
        return int(state.kept_bytes)
    return sum(map(state_bytes, state or ()))


def mapped(state: Any, function: Callable[[Any], Any]) -> Any:
    """The state of a layer with its tensors and key/value caches replaced.

    Raises OperatorError for a state of another kind, as a layer of a plugin may have.
    """
    if state is None:
        return None
    if isinstance(state, Tensor | KeyValueCache):
        return function(state)
    if not isinstance(state, tuple):
        raise OperatorError(
            f"a state must consist of tensors, KeyValueCaches and tuples; got a"
            f" {type(state).__name__}"
        )
    parts = [mapped(part, function) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
