"""SwiGLU feed-forward network (`f`): down(silu(gate(x)) * up(x)); with relu2
down(relu(up(x))^2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.layer import Layer
from flashnas.operators.parts import linear_reference


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for the two halves of the last dimension."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


class FeedForwardLayer(Layer):
    """Tokens do not mix; the state is always None."""

    def __init__(self, spec: FeedForward, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.relu2 = spec.relu2
        self.in_proj = self.linear("in_proj")
        self.out_proj = self.linear("out_proj")

    def reference(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        wide = linear_reference(self.in_proj, x_BTD.double())
        if self.relu2:
            return linear_reference(self.out_proj, (wide * (wide > 0)) ** 2), None
        gate, up = wide.chunk(2, -1)
        return linear_reference(self.out_proj, gate * torch.sigmoid(gate) * up), None

    def forward(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        wide = self.in_proj(x_BTD)
        return self.out_proj(F.relu(wide).square() if self.relu2 else swiglu(wide)), None
