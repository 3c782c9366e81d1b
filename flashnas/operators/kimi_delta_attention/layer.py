"""Kimi delta attention (`kda`), as fla's layer; arXiv 2510.26692."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.kimi_delta_attention.spec import KimiDeltaAttention
from flashnas.operators.layer import Apply, RecurrentLayer, Rule, in_memory_order
from flashnas.operators.parts.convolution import ShortConvolution
from flashnas.operators.parts.norms import RMSNorm, l2_normalise, normalised_queries_and_keys, rms_normalise
from flashnas.operators.parts.numerics import inverse_softplus_of_log_uniform, log_of_uniform
from flashnas.operators.parts.projection import Aligned, split_of
from flashnas.operators.recurrences.dplr import dplr_reference, kda_chunked, kda_step
from flashnas.operators.roles import Role

NORM_EPS = 1e-5


class KimiDeltaAttentionLayer(RecurrentLayer):
    """Log decay of a key channel -exp(A_log) softplus(low rank + dt_bias); head norm gated by sigmoid(low
    rank)."""

    roles: ClassVar = {"in_proj": Role.READS, "gates_low": Role.GATE_READS, "decay_gate": Role.GATE,
                       "output_gate": Role.GATE, "A_log": Role.DECAY, "dt_bias": Role.BIAS,
                       "out_proj": Role.WRITES}

    def __init__(self, spec: KimiDeltaAttention, hidden: int) -> None:
        super().__init__()
        spec, inner = spec.resolved(hidden), spec.inner(hidden)
        self.heads, self.head_dim = spec.heads, spec.head_dim
        self.in_proj = Aligned(hidden, 3 * inner + self.heads, bias=False)  # q, k, v | beta
        self.gates_low = nn.Linear(hidden, 2 * spec.gate_rank, bias=False)  # decay | output gate
        self.decay_gate = nn.Linear(spec.gate_rank, inner, bias=False)
        self.output_gate = nn.Linear(spec.gate_rank, inner)
        self.conv = ShortConvolution(3 * inner, spec.conv_size)
        self.A_log = nn.Parameter(log_of_uniform(self.heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(inner))
        self.norm = RMSNorm(self.head_dim, NORM_EPS)
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("kda", spec.name, (kda_chunked, kda_step), raw=True, key_dim=self.head_dim,
                         value_dim=self.head_dim)
        self.state_sizes = self.heads, self.head_dim, self.head_dim

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, beta = split_of(apply(self.in_proj, x), [3 * self.heads * self.head_dim, self.heads])
        decay, gate = apply(self.gates_low, x).chunk(2, -1)
        return qkv, beta, apply(self.decay_gate, decay), apply(self.output_gate, gate)

    def recur(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, beta, decay, gate = parts
        with torch.autocast(qkv.device.type, enabled=False):
            dtype = matrix_BHKV.dtype
            qk, v = qkv.to(dtype).unflatten(-1, (-1, self.head_dim)).split([2 * self.heads, self.heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale, self.norm.core.of(qk).forward)
            g = F.softplus(decay.to(dtype) + self.dt_bias.to(dtype)).unflatten(-1, (self.heads, -1))
            g = -self.A_log.to(dtype).exp().unsqueeze(-1) * g
            o, matrix_BHKV = rule(q, k, v, torch.sigmoid(beta.to(dtype)), g, matrix_BHKV)
            return self._gated(o, gate), matrix_BHKV

    def recur_raw(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, beta, decay, gate = parts
        q, k, v = in_memory_order(qkv, self.heads)
        a = decay.unflatten(-1, (self.heads, -1))
        o, matrix_BHKV = rule(q, k, v, beta, a, self.A_log, self.dt_bias, self.scale, matrix_BHKV)
        return self._gated(o, gate), matrix_BHKV

    def _gated(self, o: Tensor, gate: Tensor) -> Tensor:
        """The norm of each head times sigmoid(gate)."""
        return self.norm.gated(o, gate.unflatten(-1, (self.heads, -1)), sigmoid=True).flatten(-2)

    def recur_reference(self, parts: Sequence[Tensor], matrix_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        qkv, beta, decay, gate = parts
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        q, k, beta = l2_normalise(q) * self.scale, l2_normalise(k), torch.sigmoid(beta).unsqueeze(-1)
        g = torch.log1p((decay + self.dt_bias.double()).exp()).unflatten(-1, (self.heads, -1))
        g = -self.A_log.double().exp().unsqueeze(-1) * g
        o, matrix_BHKV = dplr_reference(q, beta * k, v, -k, None, g, matrix_BHKV)
        o = (rms_normalise(o, NORM_EPS) * self.norm.weight.double()).flatten(-2)
        return o * torch.sigmoid(gate), matrix_BHKV
