"""The short causal convolution in front of most recurrences, and between the gates of `conv`."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.parts.fused import convolution_silu
from flashnas.operators.roles import Declared, Role


def short_convolution(x_BTC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                      silu: bool = True) -> tuple[Tensor, Tensor]:
    """silu of a causal depthwise convolution after the inputs in `state_BTC`: (y_BTC, the last inputs)."""
    history = torch.cat([state_BTC.to(x_BTC.dtype), x_BTC], 1)
    return convolution_silu(history, weight, bias, silu), history[:, x_BTC.shape[1]:]


def short_convolution_step(x_BC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                           silu: bool = True) -> tuple[Tensor, Tensor]:
    """One token."""
    history = torch.cat([state_BTC.to(x_BC.dtype), x_BC.unsqueeze(1)], 1)
    y = (history * weight.T.to(x_BC.dtype)).sum(1)
    y = y if bias is None else y + bias.to(y.dtype)
    return F.silu(y) if silu else y, history[:, 1:]


class ShortConvolution(Declared):
    """silu of a causal depthwise convolution over time, `size` taps; its state is the last size - 1 inputs.
    Without `silu` the convolution alone."""

    roles: ClassVar = {"weight": Role.FILTER, "bias": Role.FILTER}

    def __init__(self, channels: int, size: int, bias: bool = False, silu: bool = True) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.core = Core("convolution", "convolution", (short_convolution, short_convolution_step), taps=size,
                         channels=channels)
        bound = 1 / math.sqrt(size)
        nn.init.uniform_(self.weight, -bound, bound)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        channels, size = self.weight.shape
        return torch.zeros(batch, size - 1, channels, dtype=dtype, device=device)

    def reference(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        weight, size = self.weight.double(), self.weight.shape[1]
        history = torch.cat([state_BTC, x_BTC], 1)
        y = torch.zeros_like(x_BTC)
        for tap in range(size):
            y = y + weight[:, tap] * history[:, tap:tap + x_BTC.shape[1]]
        y = y if self.bias is None else y + self.bias.double()
        return y * torch.sigmoid(y) if self.silu else y, history[:, history.shape[1] - size + 1:]

    def forward(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.core.of(x_BTC).forward(x_BTC, state_BTC, self.weight, self.bias, self.silu)
        return y, state

    def step(self, x_BC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.core.of(x_BC).step(x_BC, state_BTC, self.weight, self.bias, self.silu)
        return y, state
