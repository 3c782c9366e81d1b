"""DeltaNet with a short convolution (`d`); arXiv 2406.06484, as used by Nemotron-Flash."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import CONV, DELTA_RULE, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, scaled_head_dim


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
    layer = "flashnas.operators.delta_net.layer:DeltaNetLayer"
    own_rates = ("conv",)
    minimums: ClassVar[dict[str, int]] = {"head_dim": 1, "conv_size": 1}

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

    def vectors(self, hidden: int) -> int:
        return self.head_dim

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        heads = self.heads(hidden)
        return (
            *pre_norm(hidden),
            gemm(
                "qkv_beta", n=3 * hidden + heads, k=hidden, unfused=(hidden, hidden, hidden, heads)
            ),
            pointwise("beta_sigmoid", 2 * heads, fusable=True),
            CONV.call(
                "conv",
                channels=3 * hidden,
                conv_size=self.conv_size,
                unfused=(hidden, hidden, hidden),
            ),
            DELTA_RULE.call(
                self.name, heads=heads, key_dim=self.head_dim, value_dim=self.head_dim, groups=heads
            ),
            pointwise("out_norm", 2 * hidden),
            gemm("out", n=hidden, k=hidden),
        )
