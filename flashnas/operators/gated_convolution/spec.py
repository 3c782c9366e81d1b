"""LFM2's gated short convolution (`conv`); arXiv 2511.23404, as `Lfm2ShortConv` of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import CONV, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec


@dataclass(frozen=True, kw_only=True)
class GatedConvolution(OperatorSpec):
    """`conv`. out(C * convolution(B * x)) with B, C and x from one projection, without activation
    and biases.
    """

    kind = "conv"
    name = "gated_convolution"
    label = "gated convolution"
    colour = "#44AA99"  # teal
    family = "convolution"
    layer = "flashnas.operators.gated_convolution.layer:GatedConvolutionLayer"
    own_rates = ("conv",)
    minimums: ClassVar[dict[str, int]] = {"conv_size": 2}

    conv_size: int = 3

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        return (
            *pre_norm(hidden),
            gemm("bcx", n=3 * hidden, k=hidden),
            pointwise("gate_in", 3 * hidden),
            CONV.call("conv", channels=hidden, conv_size=self.conv_size),
            pointwise("gate_out", 3 * hidden),
            gemm("out", n=hidden, k=hidden),
        )
