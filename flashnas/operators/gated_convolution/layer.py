"""LFM2's gated short convolution (`conv`), arXiv 2511.23404."""

from __future__ import annotations

import torch
from torch import Tensor

from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.layer import Layer
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
        return self.conv.init_state(batch, dtype, device)

    def reference(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b_BTD, c_BTD, u_BTD = linear_reference(self.in_proj, x_BTD.double()).chunk(3, -1)
        before = (
            self.init_state(len(x_BTD), b_BTD.dtype, x_BTD.device)
            if state is None
            else state.double()
        )
        y_BTD, after = self.conv.reference(b_BTD * u_BTD, before)
        return linear_reference(self.out_proj, c_BTD * y_BTD), after

    def forward(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b_BTD, c_BTD, u_BTD = self.in_proj(x_BTD).chunk(3, -1)
        before = self.init_state(len(x_BTD), b_BTD.dtype, x_BTD.device) if state is None else state
        y_BTD, after = self.conv(b_BTD * u_BTD, before)
        return self.out_proj(c_BTD * y_BTD), after

    def step(self, x_BD: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        b_BD, c_BD, u_BD = self.in_proj(x_BD).chunk(3, -1)
        y_BD, after = self.conv.step(b_BD * u_BD, state)
        return self.out_proj(c_BD * y_BD), after
