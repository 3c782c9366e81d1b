"""Gated linear attention (`gla`); arXiv 2312.06635."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import GLA, STATE_BYTES, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, largest_divisor, scaled_head_dim


@dataclass(frozen=True, kw_only=True)
class GatedLinearAttention(OperatorSpec):
    """`gla`. Value heads have head_dim, key heads half of it; decay per key channel through a low-rank gate.
    """

    kind = "gla"
    name = "gla"
    label = "GLA"
    colour = "#CC79A7"  # pink
    family = "linear attention"
    layer = "flashnas.operators.gla.layer:GatedLinearAttentionLayer"
    minimums: ClassVar[dict[str, int]] = {"head_dim": 2, "gate_rank": 1}

    head_dim: int = 128
    gate_rank: int = 16

    def heads(self, hidden: int) -> int:
        return self._divided(hidden, self.head_dim, "head_dim")

    def resolved(self, hidden: int) -> Self:
        self.heads(hidden)
        self._divided(self.head_dim, 2, "2 (key heads are half of head_dim)")
        return self

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        head_dim = scaled_head_dim(self.head_dim, factor, least_dim, hidden // factor)
        if head_dim % 2 and hidden // factor % 2 == 0:  # an even one that divides the smaller hidden size
            head_dim = 2 * largest_divisor(hidden // factor // 2, head_dim // 2)
        return dataclasses.replace(self, head_dim=head_dim)

    @property
    def key_dim(self) -> int:
        return self.head_dim // 2

    def params(self, hidden: int) -> int:
        key = self.heads(hidden) * self.key_dim
        # q, k; v, output gate, o; low-rank decay gate with bias; output norm per head
        return (hidden + 2 * hidden * key + 3 * hidden * hidden
                + self.gate_rank * (hidden + key) + key + self.head_dim)

    def flops(self, hidden: int, context: float) -> float:
        key = self.heads(hidden) * self.key_dim
        projections = 4 * hidden * key + 6 * hidden * hidden + 2 * self.gate_rank * (hidden + key)
        return projections + 5 * hidden * self.key_dim

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        return hidden * self.key_dim * STATE_BYTES

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        heads = self.heads(hidden)
        key = heads * self.key_dim
        return (
            *pre_norm(hidden),
            gemm("qkvg", n=2 * key + 2 * hidden, k=hidden, unfused=(key, key, hidden, hidden)),
            gemm("gate_low", n=self.gate_rank, k=hidden),
            gemm("gate_high", n=key, k=self.gate_rank),
            pointwise("log_sigmoid", 2 * key, fusable=True),
            GLA.call(self.name, heads=heads, key_dim=self.key_dim, value_dim=self.head_dim, groups=heads),
            pointwise("gated_norm", 3 * hidden, unfused=(2 * hidden, 3 * hidden)),
            gemm("out", n=hidden, k=hidden),
        )
