"""Kimi delta attention (`kda`); arXiv 2510.26692: the gated delta rule with a decay per key
channel.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import CONV, KDA, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, scaled_dim


@dataclass(frozen=True, kw_only=True)
class KimiDeltaAttention(OperatorSpec):
    """`kda`. heads 0: hidden / head_dim; gate_rank, of the maps to decay and output gate, 0:
    head_dim, as fla."""

    kind = "kda"
    name = "kimi_delta_attention"
    label = "Kimi delta attention"
    colour = "#661100"  # dark brown
    family = "delta rule"
    layer = "flashnas.operators.kimi_delta_attention.layer:KimiDeltaAttentionLayer"
    own_rates = ("conv",)
    minimums: ClassVar[dict[str, int]] = {"head_dim": 1, "conv_size": 1}

    heads: int = 0
    head_dim: int = 128
    conv_size: int = 4
    gate_rank: int = 0

    def resolved(self, hidden: int) -> Self:
        return dataclasses.replace(
            self,
            heads=self.heads or self._divided(hidden, self.head_dim, "head_dim"),
            gate_rank=self.gate_rank or self.head_dim,
        )

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        full, head_dim = self.resolved(hidden), scaled_dim(self.head_dim, factor, least_dim)
        heads = max(1, round(full.heads * self.head_dim / factor / head_dim))
        return dataclasses.replace(
            self, heads=heads, head_dim=head_dim, gate_rank=scaled_dim(full.gate_rank, factor)
        )

    def inner(self, hidden: int) -> int:
        """Channels of the queries, of the keys and of the values."""
        return self.resolved(hidden).heads * self.head_dim

    def vectors(self, hidden: int) -> int:
        s, inner = self.resolved(hidden), self.inner(hidden)
        return 2 * inner + s.heads + s.head_dim  # dt bias and gate bias; A; gated norm

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        s, inner = self.resolved(hidden), self.inner(hidden)
        return (
            *pre_norm(hidden),
            gemm("qkv", n=3 * inner, k=hidden, unfused=(inner, inner, inner)),
            gemm("beta", n=s.heads, k=hidden),
            gemm("gates_low", n=2 * s.gate_rank, k=hidden, unfused=(s.gate_rank, s.gate_rank)),
            gemm("decay_high", n=inner, k=s.gate_rank),
            gemm("gate_high", n=inner, k=s.gate_rank),
            pointwise(
                "beta_decay_gates",
                2 * inner + 2 * s.heads,
                fusable=True,
                unfused=(2 * inner, 2 * s.heads),
            ),
            CONV.call("conv", channels=3 * inner, conv_size=s.conv_size),
            KDA.call(
                self.name, heads=s.heads, key_dim=s.head_dim, value_dim=s.head_dim, groups=s.heads
            ),
            pointwise("gated_norm", 3 * inner, unfused=(2 * inner, 3 * inner)),
            gemm("out", n=hidden, k=inner),
        )
