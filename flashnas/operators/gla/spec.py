"""Gated linear attention (`gla`); arXiv 2312.06635."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import GLA, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OperatorSpec,
    Role,
    TensorSpec,
    largest_divisor,
    linear,
    norm,
    scaled_head_dim,
)


@dataclass(frozen=True, kw_only=True)
class GatedLinearAttention(OperatorSpec):
    """`gla`. Value heads have head_dim, key heads half of it; decay per key channel through a
    low-rank gate.
    """

    kind = "gla"
    name = "gla"
    label = "GLA"
    colour = "#CC79A7"  # pink
    family = "linear attention"
    layer = "flashnas.operators.gla.layer:GatedLinearAttentionLayer"
    minimums: ClassVar = {"head_dim": 2}

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
        if head_dim % 2 and hidden // factor % 2 == 0:
            # an even one that divides the smaller hidden size
            head_dim = 2 * largest_divisor(hidden // factor // 2, head_dim // 2)
        return dataclasses.replace(self, head_dim=head_dim)

    @property
    def key_dim(self) -> int:
        return self.head_dim // 2

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        key = self.heads(hidden) * self.key_dim
        parts = {"q": key, "k": key, "v": hidden, "gate": hidden, "gate_low": self.gate_rank}
        yield from linear("in_proj", parts, hidden, Role.READS)
        yield from linear("gate_proj", key, self.gate_rank, Role.GATE, bias=True)
        yield norm("norm", self.head_dim)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        heads = self.heads(hidden)
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        return (
            pre_norm(hidden),
            gemm("qkvg", into, "q", "k", "v", "gate"),
            gemm("gate_low", into, "gate_low"),
            gemm("gate_high", tensors["gate_proj.weight"]),
            GLA.call(
                self.name, heads=heads, key_dim=self.key_dim, value_dim=self.head_dim, groups=heads
            ),
            pointwise("gated_norm", 3 * hidden),
            gemm("out", tensors["out_proj.weight"]),
        )
