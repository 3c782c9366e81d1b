"""The states of layers as trees of tensors: None, a tensor, a KeyValueCache, or a (named) tuple of
such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flashnas.operators.attention.cache import KeyValueCache
from flashnas.operators.layer import Layer
from flashnas.testing.require import require


def random_state(layer: Layer, batch: int = 2, dtype: torch.dtype = torch.float64) -> Any:
    """A state as after some tokens, of leaf tensors that take gradients."""
    generator = torch.Generator().manual_seed(7)

    def leaf(tensor: Tensor) -> Tensor:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return values.to(tensor.dtype).requires_grad_()

    def filled(state: Any) -> Any:
        if isinstance(state, KeyValueCache):
            seen = 7  # more than the smallest window, and not a multiple of it
            kept = min(seen, state.window) if state.window else seen
            room = state.keys_BGTK.new_zeros(
                batch, state.keys_BGTK.shape[1], kept, state.keys_BGTK.shape[3]
            )
            return replace(state, keys_BGTK=leaf(room), values_BGTK=leaf(room), seen=seen)
        if isinstance(state, Tensor):
            return leaf(state)
        if state is None or not _children(state):
            return state
        parts = [filled(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)

    return filled(layer.init_state(batch, dtype))


def state_tensors(state: Any) -> list[Tensor]:
    """The tensors of a state in an order that does not depend on how it came about."""
    if isinstance(state, KeyValueCache):
        return list(state.in_order())
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in _children(state) for tensor in state_tensors(part)]


def state_leaves(state: Any) -> list[Tensor]:
    """The tensors of a state as they are stored."""
    if isinstance(state, KeyValueCache):
        return [state.keys_BGTK, state.values_BGTK]
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in _children(state) for tensor in state_leaves(part)]


def _children(state: Any) -> tuple[Any, ...]:
    require(
        state is None or isinstance(state, tuple),
        "a state must be None, a tensor, a KeyValueCache or a"
        f" (named) tuple of such; got {type(state).__name__}",
    )
    return state or ()
