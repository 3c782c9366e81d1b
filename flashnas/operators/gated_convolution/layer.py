"""LFM2's gated short convolution (`conv`), arXiv 2511.23404."""

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.layer import Apply, Layer
from flashnas.operators.parts import linear_reference


class GatedConvolutionLayer(Layer):
    """The state is the last K - 1 gated inputs [B, K - 1, D], where K is the number of taps."""

    def __init__(self, spec: GatedConvolution, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")
        self.conv = self.convolution(silu=False)
        self.out_proj = self.linear("out_proj")

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        channels, taps = self.shape("conv.weight")
        return torch.zeros(batch, taps - 1, channels, dtype=dtype, device=device)

    def reference(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(x_BTD.double(), state, linear_reference, self.conv.reference)

    def forward(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(x_BTD, state, operator.call, self.conv)

    def step(self, x_BD: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x_BD, state, operator.call, self.conv.step)

    def _run(
        self,
        x: Tensor,
        state: Tensor | None,
        apply: Apply,
        conv: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        b, c, u = apply(self.in_proj, x).chunk(3, -1)
        if state is None:
            state = self.init_state(len(x), b.dtype, x.device)
        y, after = conv(b * u, state.to(b.dtype))
        return apply(self.out_proj, c * y), after
