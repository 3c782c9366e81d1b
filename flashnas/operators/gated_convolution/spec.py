"""LFM2's gated short convolution (`conv`); arXiv 2511.23404, as `Lfm2ShortConv` of transformers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import conv, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, convolution, linear


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
    minimums: ClassVar = {"conv_size": 2}

    conv_size: int = 3

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        yield from linear("in_proj", {"b": hidden, "c": hidden, "x": hidden}, hidden, Role.READS)
        yield from convolution(hidden, self.conv_size)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        tensors = self.named_tensors(hidden)
        return (
            pre_norm(hidden),
            gemm("bcx", tensors["in_proj.weight"]),
            pointwise("gate_in", 3 * hidden),
            conv(tensors["conv.weight"]),
            pointwise("gate_out", 3 * hidden),
            gemm("out", tensors["out_proj.weight"]),
        )
