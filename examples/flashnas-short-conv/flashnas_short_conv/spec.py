"""What the gated short convolution (`gsc`) states about itself, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashnas.operators import KernelCall, OperatorSpec, Phase
from flashnas.operators.kernel_kinds import CONV, gemm, pointwise


@dataclass(frozen=True, kw_only=True)
class GatedShortConvolution(OperatorSpec):
    """`gsc`. out_proj(C * conv(B * x)) with B, C and x from one projection; the convolution has no
    activation.

    As `Lfm2ShortConv` of transformers, without biases. LFM2 has a convolution over three tokens.
    """

    kind = "gsc"
    name = "gated_short_convolution"
    label = "Gated short convolution"
    colour = "#6F4E37"  # coffee
    family = "convolution"
    layer = "flashnas_short_conv.layer:GatedShortConvolutionLayer"
    own_rates = ("conv",)
    minimums: ClassVar[dict[str, int]] = {"conv_size": 2}

    conv_size: int = 3

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        return (
            pointwise("residual_add", 3 * hidden, fusable=True),
            pointwise("rms_norm", 2 * hidden),
            gemm("bcx", n=3 * hidden, k=hidden),
            pointwise("gate_in", 3 * hidden, fusable=True),
            CONV.call("conv", channels=hidden, conv_size=self.conv_size),
            pointwise("gate_out", 3 * hidden, fusable=True),
            gemm("out", n=hidden, k=hidden),
        )
