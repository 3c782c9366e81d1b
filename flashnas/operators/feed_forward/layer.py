"""SwiGLU feed-forward network (`f`): down(silu(gate(x)) * up(x)); with relu2
down(relu(up(x))^2).
"""

import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.layer import Layer
from flashnas.operators.parts import linear_reference


def activated(wide: Tensor, relu2: bool) -> Tensor:
    """silu(gate) * up for the two halves of the last dimension, or relu(up)^2."""
    if relu2:
        return F.relu(wide).square()
    gate, up = wide.chunk(2, -1)
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
        return linear_reference(self.out_proj, activated(wide, self.relu2)), None

    def forward(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.out_proj(activated(self.in_proj(x_BTD), self.relu2)), None
