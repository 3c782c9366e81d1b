"""DeltaNet with a short convolution (`d`), as fla's layer in Nemotron-Flash: no output gate; arXiv 2406.06484."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.layer import (
    OUTPUT_NORM_EPS,
    Layer,
    RecurrentState,
    RMSNorm,
    ShortConvolution,
    l2_normalise,
    normalised_queries_and_keys,
    rms_normalise,
    state_dtype,
)
from flashnas.operators.projection import Projection
from flashnas.operators.recurrences.delta_rule import (
    DeltaRule,
    delta_rule_chunked,
    delta_rule_reference,
    delta_rule_step,
)
from flashnas.operators.roles import Role


class DeltaNetLayer(Layer):
    """q, k, v pass a convolution and silu; q and k are L2-normalised; beta = sigmoid; RMSNorm per head."""

    roles: ClassVar = {"in_proj": Role.READS, "out_proj": Role.WRITES}

    def __init__(self, spec: DeltaNet, hidden: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.head_dim = hidden, spec.heads(hidden), spec.head_dim
        self.in_proj = Projection(hidden, 3 * hidden + self.heads, bias=False)  # q, k, v, beta
        self.conv = ShortConvolution(3 * hidden, spec.conv_size)
        self.norm = RMSNorm(self.head_dim, OUTPUT_NORM_EPS)
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("delta_rule", spec.name, (delta_rule_chunked, delta_rule_step), key_dim=self.head_dim,
                         value_dim=self.head_dim)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        matrix = torch.zeros(batch, self.heads, self.head_dim, self.head_dim, dtype=state_dtype(dtype), device=device)
        return RecurrentState(self.conv.init_state(batch, dtype, device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        qkv, beta = (x @ self.in_proj.weight.double().T).split([3 * self.hidden, self.heads], -1)
        qkv, conv = self.conv.reference(qkv, state.conv_BTC.double())
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.split(self.hidden, -1))
        o, matrix = delta_rule_reference(l2_normalise(q) * self.scale, l2_normalise(k), v, torch.sigmoid(beta), None,
                                         state.matrix_BHKV.double())
        o = rms_normalise(o, OUTPUT_NORM_EPS) * self.norm.weight.double()
        return o.flatten(-2) @ self.out_proj.weight.double().T, RecurrentState(conv, matrix)

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        state = state or self.init_state(len(x_BTD), projected.dtype, x_BTD.device)
        qkv, beta = projected.split([3 * self.hidden, self.heads], -1)
        qkv, conv = self.conv(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, beta, state.matrix_BHKV, self.core.of(projected).forward)
        return self.out_proj(o.to(projected.dtype)), RecurrentState(conv, matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        qkv, beta = projected.split([3 * self.hidden, self.heads], -1)
        qkv, conv = self.conv.step(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, beta, state.matrix_BHKV, self.core.of(projected).step)
        return self.out_proj(o.to(projected.dtype)), RecurrentState(conv, matrix)

    def _core(self, qkv: Tensor, beta: Tensor, matrix: Tensor, rule: DeltaRule) -> tuple[Tensor, Tensor]:
        with torch.autocast(qkv.device.type, enabled=False):
            qk, v = qkv.unflatten(-1, (-1, self.head_dim)).split([2 * self.heads, self.heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale)
            o, matrix = rule(q, k, v, torch.sigmoid(beta.to(matrix.dtype)), None, matrix)
            return self.norm(o).flatten(-2), matrix
