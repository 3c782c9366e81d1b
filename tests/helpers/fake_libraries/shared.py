"""What the stand-ins demand of all libraries' arguments."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def same_dtype(*tensors: Tensor) -> torch.dtype:
    assert len({tensor.dtype for tensor in tensors}) == 1, [tensor.dtype for tensor in tensors]
    return tensors[0].dtype


def start(state: Tensor | None, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The given state, or zeros of that shape where there is none."""
    if state is None:
        return torch.zeros(shape, dtype=dtype)
    return state
