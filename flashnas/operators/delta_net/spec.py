"""DeltaNet with a short convolution (`d`); arXiv 2406.06484, as used by Nemotron-Flash."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import DELTA_RULE, conv, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OUTPUT_NORM_EPS,
    OperatorSpec,
    Role,
    TensorSpec,
    convolution,
    linear,
    norm,
    scaled_head_dim,
)


@dataclass(frozen=True, kw_only=True)
class DeltaNet(OperatorSpec):
    """`d`. q, k, v and o have the hidden size; q and k are L2-normalised; beta = sigmoid, one per
    head.
    """

    kind = "d"
    name = "delta_net"
    label = "DeltaNet"
    colour = "#0072B2"  # blue
    family = "delta rule"
    layer = "flashnas.operators.delta_layer:DeltaNetLayer"
    norm_eps = OUTPUT_NORM_EPS

    head_dim: int = 128
    conv_size: int = 4

    def heads(self, hidden: int) -> int:
        return self._divided(hidden, self.head_dim, "head_dim")

    def resolved(self, hidden: int) -> Self:
        self.heads(hidden)
        return self

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        head_dim = scaled_head_dim(self.head_dim, factor, least_dim, hidden // factor)
        return dataclasses.replace(self, head_dim=head_dim)

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        parts = {"q": hidden, "k": hidden, "v": hidden, "beta": self.heads(hidden)}
        yield from linear("in_proj", parts, hidden, Role.READS)
        yield from convolution(3 * hidden, self.conv_size)
        yield norm("norm", self.head_dim)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        heads = self.heads(hidden)
        tensors = self.named_tensors(hidden)
        return (
            pre_norm(hidden),
            gemm("qkv_beta", tensors["in_proj.weight"]),
            conv(tensors["conv.weight"]),
            DELTA_RULE.call(
                self.name, heads=heads, key_dim=self.head_dim, value_dim=self.head_dim, groups=heads
            ),
            pointwise("out_norm", 2 * hidden),
            gemm("out", tensors["out_proj.weight"]),
        )
