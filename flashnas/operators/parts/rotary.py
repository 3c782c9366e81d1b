"""Rotary positions of attention, arXiv 2104.09864, also with the frequencies of Llama 3.1."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flashnas.operators.parts.numerics import cached_table, state_dtype


class Rotary(NamedTuple):
    """Rotary positions of the first `dim` channels of a head. `factor`, `original`: as an
    Attention's rope options."""

    dim: int
    theta: float
    factor: float = 1.0
    original: int = 0

    def frequencies(self) -> Tensor:
        """Radians per token [dim / 2]. Llama 3.1 divides by `factor` what turns less than once in
        `original` tokens, leaves what turns 4 times or more, and goes over linearly between
        them."""
        frequency = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        turns = self.original * frequency / (2 * math.pi)
        kept = ((turns - 1) / 3).clamp(0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


@cached_table
def _rotary_table(tokens: int, rotary: Rotary, dtype: torch.dtype, device: torch.device) -> Tensor:
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), rotary.frequencies())
    return torch.stack([angle.cos(), angle.sin()]).to(dtype).to(device)  # [2, T, dim / 2]


def rotate(x_BTHK: Tensor, first_position: int, rotary: Rotary) -> Tensor:
    """Rotary positions in the rotate-half form (Llama, Qwen3), from `first_position` on; arXiv
    2104.09864.
    """
    if not rotary.dim:
        return x_BTHK
    tokens = x_BTHK.shape[1]
    length = 1 << max(8, (first_position + tokens - 1).bit_length())  # few distinct tables
    table = _rotary_table(length, rotary, state_dtype(x_BTHK.dtype), x_BTHK.device)
    cos, sin = table[:, first_position : first_position + tokens, None, :].to(x_BTHK.dtype)
    a, b = x_BTHK[..., : rotary.dim].chunk(2, dim=-1)
    rest = [x_BTHK[..., rotary.dim :]] if rotary.dim < x_BTHK.shape[3] else []
    return torch.cat([a * cos - b * sin, b * cos + a * sin, *rest], -1)


def rotate_one(x_BHK: Tensor, position: int | Tensor, room: int, rotary: Rotary) -> Tensor:
    """`rotate` of one token at a position below `room`, which may lie on the device, [1]."""
    if not rotary.dim:
        return x_BHK
    length = 1 << max(8, (room - 1).bit_length())
    table = _rotary_rows(length, rotary, x_BHK.dtype, x_BHK.device)
    row = table[position] if isinstance(position, int) else table.index_select(0, position)[0]
    cos, sin = row.unbind(0)
    turning = x_BHK[..., : rotary.dim]
    a, b = turning.chunk(2, -1)
    turned = torch.addcmul(turning * cos, torch.cat([b, a], -1), sin)
    rest = [x_BHK[..., rotary.dim :]] if rotary.dim < x_BHK.shape[-1] else []
    return torch.cat([turned, *rest], -1) if rest else turned


@cached_table
def _rotary_rows(tokens: int, rotary: Rotary, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[T, 2, dim]: cosines twice, and sines with the sign that they have in each half."""
    cos, sin = _rotary_table(tokens, rotary, dtype, device)
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)], 1)
