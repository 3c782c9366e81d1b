"""DeltaNet with a short convolution (`d`), as fla's layer in Nemotron-Flash: no output gate; arXiv
2406.06484."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.layer import Apply, RecurrentLayer, Rule, in_memory_order
from flashnas.operators.parts.convolution import ShortConvolution
from flashnas.operators.parts.norms import (
    RMSNorm,
    l2_normalise,
    normalised_queries_and_keys,
    rms_normalise,
)
from flashnas.operators.parts.projection import AlignedProjection, split_of
from flashnas.operators.recurrences.delta_rule import (
    delta_rule_chunked,
    delta_rule_reference,
    delta_rule_step,
)
from flashnas.operators.roles import Role
from flashnas.operators.spec import OUTPUT_NORM_EPS


class DeltaNetLayer(RecurrentLayer):
    """q, k, v pass a convolution and silu; q and k are L2-normalised; beta = sigmoid; RMSNorm per head."""

    roles: ClassVar = {"in_proj": Role.READS, "out_proj": Role.WRITES}

    def __init__(self, spec: DeltaNet, hidden: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.head_dim = hidden, spec.heads(hidden), spec.head_dim
        self.in_proj = AlignedProjection(hidden, 3 * hidden + self.heads, bias=False)  # q, k, v, beta
        self.conv = ShortConvolution(3 * hidden, spec.conv_size)
        self.norm = RMSNorm(self.head_dim, OUTPUT_NORM_EPS)
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.scale = self.head_dim ** -0.5
        self.core = Core("delta_rule", spec.name, (delta_rule_chunked, delta_rule_step), raw=True,
                         key_dim=self.head_dim, value_dim=self.head_dim)
        self.state_sizes = self.heads, self.head_dim, self.head_dim

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        return split_of(apply(self.in_proj, x), [3 * self.hidden, self.heads])

    def recur(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, beta = parts
        with torch.autocast(qkv.device.type, enabled=False):
            qk, v = qkv.unflatten(-1, (-1, self.head_dim)).split([2 * self.heads, self.heads], -2)
            q, k = normalised_queries_and_keys(qk, self.scale, self.norm.core.of(qk).forward)
            o, matrix_BHKV = rule(q, k, v, torch.sigmoid(beta.to(matrix_BHKV.dtype)), None, matrix_BHKV)
            return self.norm(o).flatten(-2), matrix_BHKV

    def recur_raw(self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        qkv, beta = parts
        q, k, v = in_memory_order(qkv, self.heads)
        o, matrix_BHKV = rule(q, k, v, beta, self.scale, matrix_BHKV)
        return self.norm(o).flatten(-2), matrix_BHKV

    def recur_reference(self, parts: Sequence[Tensor], matrix_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        qkv, beta = parts
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.split(self.hidden, -1))
        o, matrix_BHKV = delta_rule_reference(l2_normalise(q) * self.scale, l2_normalise(k), v,
                                              torch.sigmoid(beta), None, matrix_BHKV)
        return (rms_normalise(o, OUTPUT_NORM_EPS) * self.norm.weight.double()).flatten(-2), matrix_BHKV
