"""Parallel hybrid head (`h`): attention and Mamba2 read the same input, one projection reads the
mean of both.

y = out_proj((norm(attention(x)) + norm(mamba2(x))) / 2), as Hymba fuses its heads; arXiv
2411.13676.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flashnas.operators.attention.cache import KeyValueCache
from flashnas.operators.attention.layer import AttentionLayer
from flashnas.operators.hybrid_head.spec import HybridHead
from flashnas.operators.layer import Layer, RecurrentState
from flashnas.operators.mamba2.layer import Mamba2Layer
from flashnas.operators.parts import linear_reference
from flashnas.operators.spec import OUTPUT_NORM_EPS


class HybridHeadState(NamedTuple):
    """What each half remembers."""

    attention: KeyValueCache
    ssm: RecurrentState


class HybridHeadLayer(Layer):
    """The halves are the layers of `a` or `swa` and of `m2` without their output projections.
    Mamba2 already ends with a norm and its weight; the attention gets one here."""

    def __init__(self, spec: HybridHead, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.attention = AttentionLayer(spec.attention(hidden), hidden)
        self.ssm = Mamba2Layer(spec.ssm(hidden), hidden)
        self.attention.out_proj = self.ssm.out_proj = nn.Identity()  # type: ignore[assignment]
        self.norm = self.norm_of("norm", OUTPUT_NORM_EPS)
        self.out_proj = self.linear("out_proj")

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> HybridHeadState:
        return HybridHeadState(
            self.attention.init_state(batch, dtype, device),
            self.ssm.init_state(batch, dtype, device),
        )

    def reference(
        self, x_BTD: Tensor, state: HybridHeadState | None = None
    ) -> tuple[Tensor, HybridHeadState]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        looked, attention = self.attention.reference(x, state.attention)
        summed, ssm = self.ssm.reference(x, state.ssm)
        mean = (self.norm.reference(looked) + summed) / 2
        return linear_reference(self.out_proj, mean), HybridHeadState(attention, ssm)

    def forward(
        self, x_BTD: Tensor, state: HybridHeadState | None = None
    ) -> tuple[Tensor, HybridHeadState]:
        looked, attention = self.attention(x_BTD, state and state.attention)
        summed, ssm = self.ssm(x_BTD, state and state.ssm)
        return self._output(looked, summed), HybridHeadState(attention, ssm)

    def step(self, x_BD: Tensor, state: HybridHeadState) -> tuple[Tensor, HybridHeadState]:
        looked, attention = self.attention.step(x_BD, state.attention)
        summed, ssm = self.ssm.step(x_BD, state.ssm)
        return self._output(looked, summed), HybridHeadState(attention, ssm)

    def _output(self, looked: Tensor, summed: Tensor) -> Tensor:
        y: Tensor = self.out_proj((self.norm(looked) + summed) * 0.5)
        return y
