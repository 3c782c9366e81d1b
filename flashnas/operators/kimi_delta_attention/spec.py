"""Kimi delta attention (`kda`); arXiv 2510.26692: the gated delta rule with a decay per key
channel.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import KDA, conv, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OUTPUT_NORM_EPS,
    OperatorSpec,
    Role,
    TensorSpec,
    convolution,
    linear,
    norm,
    scaled_dim,
)


@dataclass(frozen=True, kw_only=True)
class KimiDeltaAttention(OperatorSpec):
    """`kda`. heads 0: hidden / head_dim; gate_rank, of the maps to decay and output gate, 0:
    head_dim, as fla."""

    kind = "kda"
    name = "kimi_delta_attention"
    label = "Kimi delta attention"
    colour = "#661100"  # dark brown
    family = "delta rule"
    layer = "flashnas.operators.delta_layer:KimiDeltaAttentionLayer"
    norm_eps = OUTPUT_NORM_EPS

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
        full = self.resolved(hidden)
        head_dim = scaled_dim(self.head_dim, factor, least_dim)
        heads = max(1, round(full.heads * self.head_dim / factor / head_dim))
        rank = scaled_dim(full.gate_rank, factor, least_dim)
        return dataclasses.replace(self, heads=heads, head_dim=head_dim, gate_rank=rank)

    def inner(self, hidden: int) -> int:
        """Channels of the queries, of the keys and of the values."""
        return self.resolved(hidden).heads * self.head_dim

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        s, inner = self.resolved(hidden), self.inner(hidden)
        parts = {"q": inner, "k": inner, "v": inner, "beta": s.heads}
        low = {"decay": s.gate_rank, "gate": s.gate_rank}
        yield from linear("in_proj", parts, hidden, Role.READS)
        yield from linear("gates_low", low, hidden, Role.GATE_READS)
        yield from linear("decay_gate", inner, s.gate_rank, Role.GATE)
        yield from linear("output_gate", inner, s.gate_rank, Role.GATE, bias=True)
        yield from convolution(3 * inner, s.conv_size)
        yield TensorSpec("A_log", (s.heads,), Role.DECAY)
        yield TensorSpec("dt_bias", (inner,), Role.BIAS)
        yield norm("norm", s.head_dim)
        yield from linear("out_proj", hidden, inner, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        s = self.resolved(hidden)
        inner = self.inner(hidden)
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        return (
            pre_norm(hidden),
            gemm("qkv", into, "q", "k", "v"),
            gemm("beta", into, "beta"),
            gemm("gates_low", tensors["gates_low.weight"]),
            gemm("decay_high", tensors["decay_gate.weight"]),
            gemm("gate_high", tensors["output_gate.weight"]),
            conv(tensors["conv.weight"]),
            KDA.call(
                self.name, heads=s.heads, key_dim=s.head_dim, value_dim=s.head_dim, groups=s.heads
            ),
            pointwise("gated_norm", 3 * inner),
            gemm("out", tensors["out_proj.weight"]),
        )
