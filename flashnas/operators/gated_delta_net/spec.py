"""Gated DeltaNet (`gd`); arXiv 2412.06464, as in Qwen3-Next: per-head decay, output gate, short
convolution.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import GATED_DELTA_RULE, conv, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OperatorSpec,
    Role,
    TensorSpec,
    convolution,
    linear,
    norm,
    scaled_dim,
)


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(OperatorSpec):
    """`gd`. k_heads 0: hidden / head_dim. Value heads: expand_v x k_heads; all heads have
    head_dim.
    """

    kind = "gd"
    name = "gated_delta_net"
    label = "Gated DeltaNet"
    colour = "#56B4E9"  # sky blue
    family = "delta rule"
    layer = "flashnas.operators.delta_layer:GatedDeltaNetLayer"

    k_heads: int = 0
    expand_v: int = 1
    head_dim: int = 128
    conv_size: int = 4

    def resolved(self, hidden: int) -> Self:
        return dataclasses.replace(
            self, k_heads=self.k_heads or self._divided(hidden, self.head_dim, "head_dim")
        )

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        head_dim = scaled_dim(self.head_dim, factor, least_dim)
        k_heads = max(1, round(self.resolved(hidden).k_heads * self.head_dim / factor / head_dim))
        return dataclasses.replace(self, k_heads=k_heads, head_dim=head_dim)

    def sizes(self, hidden: int) -> tuple[int, int, int]:
        """Channels of the keys and of the values, and heads of the values."""
        k_heads = self.resolved(hidden).k_heads
        heads = self.expand_v * k_heads
        return k_heads * self.head_dim, heads * self.head_dim, heads

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        key, value, heads = self.sizes(hidden)
        parts = {"q": key, "k": key, "v": value, "z": value, "beta": heads, "a": heads}
        yield from linear("in_proj", parts, hidden, Role.READS)
        yield from convolution(2 * key + value, self.conv_size)
        yield TensorSpec("A_log", (heads,), Role.DECAY)
        yield TensorSpec("dt_bias", (heads,), Role.BIAS)
        yield norm("norm", self.head_dim)
        yield from linear("out_proj", hidden, value, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        key, value, heads = self.sizes(hidden)
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        return (
            pre_norm(hidden),
            gemm("qkvz", into, "q", "k", "v", "z"),
            gemm("beta_decay", into, "beta", "a"),
            conv(tensors["conv.weight"]),
            GATED_DELTA_RULE.call(
                self.name,
                heads=heads,
                key_dim=self.head_dim,
                value_dim=self.head_dim,
                groups=key // self.head_dim,
            ),
            pointwise("gated_norm", 3 * value),
            gemm("out", tensors["out_proj.weight"]),
        )
