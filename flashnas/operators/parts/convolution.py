"""The short causal convolution in front of most recurrences, and between the gates of `conv`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """silu of a causal depthwise convolution over time, `size` taps; its state is the last size - 1
    inputs. Without `silu` the convolution alone."""

    def __init__(self, channels: int, size: int, bias: bool = False, silu: bool = True) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
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
            y = y + weight[:, tap] * history[:, tap : tap + x_BTC.shape[1]]
        y = y if self.bias is None else y + self.bias.double()
        return y * torch.sigmoid(y) if self.silu else y, history[:, history.shape[1] - size + 1 :]

    def forward(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        history = torch.cat([state_BTC.to(x_BTC.dtype), x_BTC], 1)
        weight, bias = self._weights(x_BTC.dtype)
        y = F.conv1d(history.mT, weight.unsqueeze(1), bias, groups=len(weight)).mT
        return F.silu(y) if self.silu else y, history[:, x_BTC.shape[1] :]

    def step(self, x_BC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        history = torch.cat([state_BTC.to(x_BC.dtype), x_BC.unsqueeze(1)], 1)
        weight, bias = self._weights(x_BC.dtype)
        y = (history * weight.T).sum(1)
        y = y if bias is None else y + bias
        return F.silu(y) if self.silu else y, history[:, 1:]

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
