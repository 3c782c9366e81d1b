"""Gated DeltaNet (`gd`) in the form of Qwen3-Next; arXiv 2412.06464."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.layer import Apply, RecurrentLayer, Rule, in_memory_order
from flashnas.operators.parts.convolution import ShortConvolution
from flashnas.operators.parts.norms import RMSNorm, l2_normalise, normalised_queries_and_keys, rms_normalise
from flashnas.operators.parts.numerics import inverse_softplus_of_log_uniform, log_of_uniform
from flashnas.operators.parts.projection import AlignedProjection, split_of
from flashnas.operators.recurrences.delta_rule import (
    delta_rule_chunked,
    delta_rule_reference,
    delta_rule_step,
)
from flashnas.operators.roles import Role


class GatedDeltaNetLayer(RecurrentLayer):
    """Value head h reads key head h // expand_v; log decay -exp(A_log) softplus(a + dt_bias); norm gated by
    silu(z)."""

    roles: ClassVar = {"in_proj": Role.READS, "A_log": Role.DECAY, "dt_bias": Role.BIAS,
                       "out_proj": Role.WRITES}

    def __init__(self, spec: GatedDeltaNet, hidden: int) -> None:
        super().__init__()
        self.k_heads, self.v_heads = spec.resolved(hidden).k_heads, spec.v_heads(hidden)
        self.key, self.value, self.head_dim = spec.key_size(hidden), spec.value_size(hidden), spec.head_dim
        self.sizes = [2 * self.key + self.value, self.value, self.v_heads, self.v_heads]
        self.in_proj = AlignedProjection(hidden, sum(self.sizes), bias=False)  # q, k, v | z | beta | a
        self.conv = ShortConvolution(2 * self.key + self.value, spec.conv_size)
        self.A_log = nn.Parameter(log_of_uniform(self.v_heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(self.v_heads))
        self.norm = RMSNorm(self.head_dim)
        self.out_proj = nn.Linear(self.value, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("gated_delta_rule", spec.name, (delta_rule_chunked, delta_rule_step), raw=True,
                         key_dim=self.head_dim, value_dim=self.head_dim)
        self.state_sizes = self.v_heads, self.head_dim, self.head_dim

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        return split_of(apply(self.in_proj, x), self.sizes)

    def recur(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, z, beta, a = parts
        with torch.autocast(qkv.device.type, enabled=False):
            dtype = matrix_BHKV.dtype
            qk, v = qkv.unflatten(-1, (-1, self.head_dim)).split([2 * self.k_heads, self.v_heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale, self.norm.core.of(qk).forward)
            if self.v_heads != self.k_heads:
                q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
            g = -self.A_log.to(dtype).exp() * F.softplus(a.to(dtype) + self.dt_bias.to(dtype))
            o, matrix_BHKV = rule(q, k, v, torch.sigmoid(beta.to(dtype)), g, matrix_BHKV)
            gate = z.unflatten(-1, (self.v_heads, -1))
            return self.norm.gated(o, gate).flatten(-2), matrix_BHKV

    def recur_raw(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, z, beta, a = parts
        if self.k_heads == self.v_heads:
            q, k, v = in_memory_order(qkv, self.v_heads)
        else:
            heads = [self.k_heads, self.k_heads, self.v_heads]
            q, k, v = qkv.unflatten(-1, (-1, self.head_dim)).split(heads, -2)
        o, matrix_BHKV = rule(q, k, v, beta, a, self.A_log, self.dt_bias, self.scale, matrix_BHKV)
        return self.norm.gated(o, z.unflatten(-1, (self.v_heads, -1))).flatten(-2), matrix_BHKV

    def recur_reference(self, parts: Sequence[Tensor], matrix_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        qkv, z, beta, a = parts
        q, k, v = (part.unflatten(-1, (-1, self.head_dim))
                   for part in qkv.split([self.key, self.key, self.value], -1))
        q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
        g = -self.A_log.double().exp() * torch.log1p((a + self.dt_bias.double()).exp())
        o, matrix_BHKV = delta_rule_reference(l2_normalise(q) * self.scale, l2_normalise(k), v,
                                              torch.sigmoid(beta), g, matrix_BHKV)
        o = rms_normalise(o).flatten(-2) * self.norm.weight.double().repeat(self.v_heads)
        return o * z * torch.sigmoid(z), matrix_BHKV
