"""What the gated short convolution (`gsc`) states about itself, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from flashnas.operators import KernelCall, OperatorSpec, Phase
from flashnas.operators.kernel_kinds import conv, gemm, pointwise
from flashnas.operators.spec import Role, TensorSpec, linear


@dataclass(frozen=True, kw_only=True)
class GatedShortConvolution(OperatorSpec):
    """`gsc`. out_proj(C * conv(B * x)) with B, C and x from one projection; the convolution has no
    activation.
    """

    kind = "gsc"
    name = "gated_short_convolution"
    label = "Gated short convolution"
    colour = "#6F4E37"  # coffee
    family = "convolution"
    layer = "flashnas_short_conv.layer:GatedShortConvolutionLayer"
    minimums: ClassVar[dict[str, int]] = {"conv_size": 2}

    conv_size: int = 3

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        yield from linear("in_proj", {"b": hidden, "c": hidden, "x": hidden}, hidden, Role.READS)
        yield TensorSpec("conv.weight", (hidden, 1, self.conv_size), Role.FILTER)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        into, taps, out = self.tensors(hidden)
        return (
            pointwise("rms_norm", 2 * hidden),
            gemm("bcx", into),
            conv(taps),
            gemm("out", out),
        )
