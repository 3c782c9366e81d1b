"""Kimi delta attention (`kda`), as fla's layer; arXiv 2510.26692. The recurrence is in dplr.py, with a = -k, b = k."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.kimi_delta_attention.spec import KimiDeltaAttention
from flashnas.operators.layer import (
    Layer,
    RecurrentState,
    RMSNorm,
    ShortConvolution,
    inverse_softplus_of_log_uniform,
    l2_normalise,
    linear_reference,
    log_of_uniform,
    normalised_queries_and_keys,
    rms_normalise,
    state_dtype,
)
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_reference, dplr_step
from flashnas.operators.roles import Role

KdaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
NORM_EPS = 1e-5


def kda_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTHK: Tensor,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_chunked` of the delta rule at rate beta."""
    return dplr_chunked(q_BTHK, k_BTHK * beta_BTH.unsqueeze(-1), v_BTHV, -k_BTHK, None, g_BTHK, state_BHKV)


def kda_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g_BHK: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_step` of the delta rule at rate beta."""
    return dplr_step(q_BHK, k_BHK * beta_BH.unsqueeze(-1), v_BHV, -k_BHK, None, g_BHK, state_BHKV)


class KimiDeltaAttentionLayer(Layer):
    """Log decay of a key channel -exp(A_log) softplus(low rank + dt_bias); head norm gated by sigmoid(low rank)."""

    roles: ClassVar = {"in_proj": Role.READS, "gates_low": Role.GATE_READS, "decay_gate": Role.GATE,
                       "output_gate": Role.GATE, "A_log": Role.DECAY, "dt_bias": Role.BIAS, "out_proj": Role.WRITES}

    def __init__(self, spec: KimiDeltaAttention, hidden: int) -> None:
        super().__init__()
        spec, inner = spec.resolved(hidden), spec.inner(hidden)
        self.heads, self.head_dim = spec.heads, spec.head_dim
        self.in_proj = nn.Linear(hidden, 3 * inner + self.heads, bias=False)  # q, k, v | beta
        self.gates_low = nn.Linear(hidden, 2 * spec.gate_rank, bias=False)  # decay | output gate
        self.decay_gate = nn.Linear(spec.gate_rank, inner, bias=False)
        self.output_gate = nn.Linear(spec.gate_rank, inner)
        self.conv = ShortConvolution(3 * inner, spec.conv_size)
        self.A_log = nn.Parameter(log_of_uniform(self.heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(inner))
        self.norm = RMSNorm(self.head_dim, NORM_EPS)
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("kda", spec.name, (kda_chunked, kda_step), key_dim=self.head_dim, value_dim=self.head_dim)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        matrix = torch.zeros(batch, self.heads, self.head_dim, self.head_dim, dtype=state_dtype(dtype), device=device)
        return RecurrentState(self.conv.init_state(batch, dtype, device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        qkv, beta = linear_reference(self.in_proj, x).split([3 * self.heads * self.head_dim, self.heads], -1)
        decay, gate = linear_reference(self.gates_low, x).chunk(2, -1)
        qkv, conv = self.conv.reference(qkv, state.conv_BTC.double())
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        q, k, beta = l2_normalise(q) * self.scale, l2_normalise(k), torch.sigmoid(beta).unsqueeze(-1)
        g = torch.log1p((linear_reference(self.decay_gate, decay) + self.dt_bias.double()).exp())
        g = -self.A_log.double().exp().unsqueeze(-1) * g.unflatten(-1, (self.heads, -1))
        o, matrix = dplr_reference(q, beta * k, v, -k, None, g, state.matrix_BHKV.double())
        o = (rms_normalise(o, NORM_EPS) * self.norm.weight.double()).flatten(-2)
        o = o * torch.sigmoid(linear_reference(self.output_gate, gate))
        return linear_reference(self.out_proj, o), RecurrentState(conv, matrix)

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        state = state or self.init_state(len(x_BTD), projected.dtype, x_BTD.device)
        qkv, beta = projected.split([3 * self.heads * self.head_dim, self.heads], -1)
        qkv, conv = self.conv(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, beta, *self._gates(x_BTD), state.matrix_BHKV,
                               self.core.of(projected).forward)
        return self.out_proj(o.to(projected.dtype)), RecurrentState(conv, matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        qkv, beta = projected.split([3 * self.heads * self.head_dim, self.heads], -1)
        qkv, conv = self.conv.step(qkv, state.conv_BTC)
        o, matrix = self._core(qkv, beta, *self._gates(x_BD), state.matrix_BHKV,
                               self.core.of(projected).step)
        return self.out_proj(o.to(projected.dtype)), RecurrentState(conv, matrix)

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Decay before the softplus and its bias, output gate before the sigmoid."""
        decay, gate = self.gates_low(x).chunk(2, -1)
        return self.decay_gate(decay), self.output_gate(gate)

    def _core(self, qkv: Tensor, beta: Tensor, decay: Tensor, gate: Tensor, matrix: Tensor,
              rule: KdaRule) -> tuple[Tensor, Tensor]:
        with torch.autocast(qkv.device.type, enabled=False):
            dtype = matrix.dtype
            qk, v = qkv.to(dtype).unflatten(-1, (-1, self.head_dim)).split([2 * self.heads, self.heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale)
            g = F.softplus(decay.to(dtype) + self.dt_bias.to(dtype)).unflatten(-1, (self.heads, -1))
            g = -self.A_log.to(dtype).exp().unsqueeze(-1) * g
            o, matrix = rule(q, k, v, torch.sigmoid(beta.to(dtype)), g, matrix)
            return self.norm(o).flatten(-2) * torch.sigmoid(gate.to(dtype)), matrix
