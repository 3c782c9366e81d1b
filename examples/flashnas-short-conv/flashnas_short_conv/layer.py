"""The gated short convolution: C * conv(B * x) between two projections.

Shape letters: B batch, T time, D hidden size, K taps of the filter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flashnas.operators.layer import Layer
from flashnas_short_conv.spec import GatedShortConvolution


class GatedShortConvolutionLayer(Layer):
    """The state is the last K - 1 gated inputs [B, K - 1, D]."""

    def __init__(self, spec: GatedShortConvolution, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")  # B, C, x
        self.conv = nn.Conv1d(hidden, hidden, spec.conv_size, groups=hidden, bias=False)
        self.out_proj = self.linear("out_proj")

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        hidden, _, taps = self.conv.weight.shape
        return torch.zeros(batch, taps - 1, hidden, dtype=dtype, device=device)

    def reference(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x_BTD, filter_DK = x_BTD.double(), self.conv.weight.double().squeeze(1)
        last_BKD = (
            self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device) if state is None else state
        ).double()
        outputs = []
        for x_BD in x_BTD.unbind(1):
            b_BD, c_BD, u_BD = (x_BD @ self.in_proj.weight.double().T).chunk(3, -1)
            window_BKD = torch.cat([last_BKD, (b_BD * u_BD).unsqueeze(1)], 1)
            y_BD = torch.einsum("bkd,dk->bd", window_BKD, filter_DK)
            outputs.append((c_BD * y_BD) @ self.out_proj.weight.double().T)
            last_BKD = window_BKD[:, 1:]
        return torch.stack(outputs, 1), last_BKD

    def forward(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b_BTD, c_BTD, u_BTD = self.in_proj(x_BTD).chunk(3, -1)
        if state is None:
            state = self.init_state(len(x_BTD), b_BTD.dtype, x_BTD.device)
        history_BSD = torch.cat([state.to(b_BTD.dtype), b_BTD * u_BTD], 1)  # S = K - 1 + T
        y_BTD = self.conv(history_BSD.mT).mT
        return self.out_proj(c_BTD * y_BTD), history_BSD[:, x_BTD.shape[1] :]

    def step(self, x_BD: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        b_BD, c_BD, u_BD = self.in_proj(x_BD).chunk(3, -1)
        window_BKD = torch.cat([state.to(b_BD.dtype), (b_BD * u_BD).unsqueeze(1)], 1)
        y_BD = (window_BKD * self.conv.weight.squeeze(1).T.to(window_BKD.dtype)).sum(1)
        return self.out_proj(c_BD * y_BD), window_BKD[:, 1:]
