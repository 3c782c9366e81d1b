"""SwiGLU feed-forward network (`f`): down(silu(gate(x)) * up(x))."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flashnas.operators.feed_forward import FeedForward
from flashnas.operators.layers.common import Layer
from flashnas.operators.layers.fused import swiglu


class FeedForwardLayer(Layer):
    """Tokens do not mix, so the state is always None."""

    def __init__(self, spec: FeedForward, hidden: int) -> None:
        super().__init__()
        self.inner = spec.resolved(hidden).intermediate
        self.in_proj = nn.Linear(hidden, 2 * self.inner, bias=False)  # gate, up
        self.out_proj = nn.Linear(self.inner, hidden, bias=False)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        return None

    def reference(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        gate, up = (x_BTD.double() @ self.in_proj.weight.double().T).split(self.inner, -1)
        return (gate * torch.sigmoid(gate) * up) @ self.out_proj.weight.double().T, None

    def forward(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.out_proj(swiglu(self.in_proj(x_BTD))), None

    def step(self, x_BD: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.forward(x_BD)
