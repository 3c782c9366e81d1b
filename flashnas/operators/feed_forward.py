"""SwiGLU feed-forward network (`f`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from flashnas.operators.spec import KernelCall, OperatorSpec, Phase, gemm, pointwise


@dataclass(frozen=True, kw_only=True)
class FeedForward(OperatorSpec):
    """`f`. intermediate 0: three times the hidden size, as in Nemotron-Flash."""

    kind = "f"
    name = "feed_forward"
    mixes_tokens = False

    intermediate: int = 0

    def resolved(self, hidden: int) -> Self:
        return dataclasses.replace(self, intermediate=self.intermediate or 3 * hidden)

    def scaled(self, hidden: int, factor: int) -> Self:
        return dataclasses.replace(self, intermediate=max(1, round(self.intermediate / factor))
                                   if self.intermediate else 0)

    def params(self, hidden: int) -> int:
        return hidden + 3 * hidden * self.resolved(hidden).intermediate

    def flops(self, hidden: int, context: float) -> float:
        return 6 * hidden * self.resolved(hidden).intermediate

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner = self.resolved(hidden).intermediate
        return (
            pointwise("residual_add", 3 * hidden, fusable=True),
            pointwise("rms_norm", 2 * hidden),
            gemm("gate_up", n=2 * inner, k=hidden, unfused=(inner, inner)),
            pointwise("silu_mul", 3 * inner, unfused=(2 * inner, 3 * inner)),
            gemm("down", n=hidden, k=inner),
        )
