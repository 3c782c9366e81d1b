"""The one way in which a check fails, and the states of layers as trees of tensors: None, a tensor,
a KeyValueCache, or a (named) tuple of such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import OperatorError
from flashnas.network.cache import mapped
from flashnas.operators.layer import Layer


def require(condition: object, message: str) -> None:
    """Raise AssertionError with the message, one line, unless the condition holds; also under
    `python -O`.
    """
    if not condition:
        raise AssertionError(message)


def random_state(layer: Layer, batch: int = 2, dtype: torch.dtype = torch.float64) -> Any:
    """A state as after some tokens, of leaf tensors that take gradients."""
    generator = torch.Generator().manual_seed(7)

    def leaf(tensor: Tensor) -> Tensor:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return values.to(tensor.dtype).requires_grad_()

    def filled(part: Any) -> Any:
        if isinstance(part, Tensor):
            return leaf(part)
        seen = 7  # more than the smallest window, and not a multiple of it
        kept = min(seen, part.window) if part.window else seen
        _, groups, _, dim = part.keys_BGTK.shape
        room = part.keys_BGTK.new_zeros(batch, groups, kept, dim)
        return replace(part, keys_BGTK=leaf(room), values_BGTK=leaf(room), seen=seen)

    return mapped(layer.init_state(batch, dtype), filled)


def state_tensors(state: Any, *, stored: bool = False) -> list[Tensor]:
    """The tensors of a state. stored: as they are stored; else in an order that does not depend on
    how the state came about. Raises AssertionError for a state of another kind.
    """
    tensors: list[Tensor] = []

    def collect(part: Any) -> None:
        if isinstance(part, Tensor):
            tensors.append(part)
        else:
            tensors.extend((part.keys_BGTK, part.values_BGTK) if stored else part.in_order())

    try:
        mapped(state, collect)
    except OperatorError as error:
        raise AssertionError(str(error)) from None
    return tensors
