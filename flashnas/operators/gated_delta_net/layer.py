"""Gated DeltaNet (`gd`) in the form of Qwen3-Next; arXiv 2412.06464."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.fused import gated_rms_norm
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.layer import (
    Layer,
    RecurrentState,
    RMSNorm,
    ShortConvolution,
    inverse_softplus_of_log_uniform,
    l2_normalise,
    log_of_uniform,
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


class GatedDeltaNetLayer(Layer):
    """Value head h reads key head h // expand_v; log decay -exp(A_log) softplus(a + dt_bias); norm gated by silu(z)."""

    roles: ClassVar = {"in_proj": Role.READS, "A_log": Role.DECAY, "dt_bias": Role.BIAS, "out_proj": Role.WRITES}

    def __init__(self, spec: GatedDeltaNet, hidden: int) -> None:
        super().__init__()
        self.k_heads, self.v_heads = spec.resolved(hidden).k_heads, spec.v_heads(hidden)
        self.key, self.value, self.head_dim = spec.key_size(hidden), spec.value_size(hidden), spec.head_dim
        self.sizes = [2 * self.key + self.value, self.value, self.v_heads, self.v_heads]
        self.in_proj = Projection(hidden, sum(self.sizes), bias=False)  # q, k, v | z | beta | a
        self.conv = ShortConvolution(2 * self.key + self.value, spec.conv_size)
        self.A_log = nn.Parameter(log_of_uniform(self.v_heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(self.v_heads))
        self.norm = RMSNorm(self.head_dim)
        self.out_proj = nn.Linear(self.value, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("gated_delta_rule", spec.name, (delta_rule_chunked, delta_rule_step), key_dim=self.head_dim,
                         value_dim=self.head_dim)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        matrix = torch.zeros(batch, self.v_heads, self.head_dim, self.head_dim, dtype=state_dtype(dtype), device=device)
        return RecurrentState(self.conv.init_state(batch, dtype, device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        qkv, z, beta, a = (x @ self.in_proj.weight.double().T).split(self.sizes, -1)
        qkv, conv = self.conv.reference(qkv, state.conv_BTC.double())
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.split([self.key, self.key, self.value], -1))
        q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
        g = -self.A_log.double().exp() * torch.log1p((a + self.dt_bias.double()).exp())
        o, matrix = delta_rule_reference(l2_normalise(q) * self.scale, l2_normalise(k), v, torch.sigmoid(beta), g,
                                         state.matrix_BHKV.double())
        o = rms_normalise(o).flatten(-2) * self.norm.weight.double().repeat(self.v_heads)
        return (o * z * torch.sigmoid(z)) @ self.out_proj.weight.double().T, RecurrentState(conv, matrix)

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        state = state or self.init_state(len(x_BTD), projected.dtype, x_BTD.device)
        qkv, z, beta, a = projected.split(self.sizes, -1)
        qkv, conv = self.conv(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, z, beta, a, state.matrix_BHKV, self.core.of(projected).forward)
        return self.out_proj(o), RecurrentState(conv, matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        qkv, z, beta, a = projected.split(self.sizes, -1)
        qkv, conv = self.conv.step(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, z, beta, a, state.matrix_BHKV, self.core.of(projected).step)
        return self.out_proj(o), RecurrentState(conv, matrix)

    def _core(self, qkv: Tensor, z: Tensor, beta: Tensor, a: Tensor, matrix: Tensor,
              rule: DeltaRule) -> tuple[Tensor, Tensor]:
        with torch.autocast(qkv.device.type, enabled=False):
            dtype = matrix.dtype
            qk, v = qkv.unflatten(-1, (-1, self.head_dim)).split([2 * self.k_heads, self.v_heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale)
            if self.v_heads != self.k_heads:
                q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
            g = -self.A_log.to(dtype).exp() * F.softplus(a.to(dtype) + self.dt_bias.to(dtype))
            o, matrix = rule(q, k, v, torch.sigmoid(beta.to(dtype)), g, matrix)
            gate = z.unflatten(-1, (self.v_heads, -1))
            return gated_rms_norm(o, gate, self.norm.weight, self.norm.eps).flatten(-2), matrix
