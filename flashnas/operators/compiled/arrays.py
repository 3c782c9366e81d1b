"""Torch tensors on a CPU as the flat numpy arrays that compiled code takes; they share the tensors' memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def flat(x: Tensor) -> Any:
    """A contiguous tensor as one row."""
    return x.detach().view(-1).numpy()


def bits(x: Tensor) -> Any:
    """A contiguous tensor in float32 or bfloat16 as the uint16 numbers in its memory."""
    return x.detach().view(-1).view(torch.uint16).numpy()


def rows(x: Tensor) -> tuple[Any, int]:
    """[B, T, ..] in float32 or bfloat16 as (the uint16 numbers in its memory from its first number on, numbers from one
    token to the next).

    A part of a projection, whose other parts lie between its tokens, is not copied.
    """
    x = x.detach()
    batch, tokens = x.shape[:2]
    row = x[0, 0]
    size = row.numel()
    stride = x.stride(1) if tokens > 1 else x.stride(0) if batch > 1 else size
    if not row.is_contiguous() or stride < size or (batch > 1 and x.stride(0) != tokens * stride):
        x, stride = x.contiguous(), size
    return x.as_strided(((batch * tokens - 1) * stride + size,), (1,)).view(torch.uint16).numpy(), stride


def wide_copy(x: Tensor) -> Tensor:
    """A contiguous copy in float32, to be written into."""
    return x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
