"""Mamba, the selective state space of the first version (`m`); arXiv 2312.00752."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import SELECTIVE_SCAN, conv, gemm, pre_norm
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, convolution, linear, scaled_dim


@dataclass(frozen=True, kw_only=True)
class Mamba(OperatorSpec):
    """`m`. inner size = expand x hidden; each inner channel has a state of `state` values with
    decays of their own.

    dt_rank: width through which the time steps of all channels are projected; 0: hidden / 16,
    rounded up. bias: of the input and the output projection.
    """

    kind = "m"
    name = "mamba"
    label = "Mamba"
    colour = "#999933"  # olive
    family = "state space"
    layer = "flashnas.operators.mamba.layer:MambaLayer"
    stands_alone = True

    expand: int = 2
    state: int = 16
    conv_size: int = 4
    dt_rank: int = 0
    bias: bool = False
    conv_bias: bool = True

    def inner(self, hidden: int) -> int:
        return self.expand * hidden

    def resolved(self, hidden: int) -> Self:
        return dataclasses.replace(self, dt_rank=self.dt_rank or _dt_rank(hidden))

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        # from the hidden size, also in the smaller network
        follows = self.dt_rank in (0, _dt_rank(hidden))
        rank = 0 if follows else max(1, round(self.dt_rank / factor))
        return dataclasses.replace(
            self, state=scaled_dim(self.state, factor, least_dim), dt_rank=rank
        )

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        inner = self.inner(hidden)
        rank = self.resolved(hidden).dt_rank
        low = {"dt": rank, "B": self.state, "C": self.state}
        yield from linear("in_proj", {"x": inner, "z": inner}, hidden, Role.READS, self.bias)
        yield from convolution(inner, self.conv_size, self.conv_bias)
        yield from linear("x_proj", low, inner, Role.INNER)
        yield from linear("dt_proj", inner, rank, Role.INNER)
        yield TensorSpec("dt_bias", (inner,), Role.BIAS)
        yield TensorSpec("A_log", (inner, self.state), Role.DECAY)
        yield TensorSpec("D", (inner,), Role.VECTOR)
        yield from linear("out_proj", hidden, inner, Role.WRITES, self.bias)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner = self.inner(hidden)
        tensors = self.named_tensors(hidden)
        return (
            pre_norm(hidden),
            gemm("in", tensors["in_proj.weight"]),
            conv(tensors["conv.weight"]),
            gemm("x_proj", tensors["x_proj.weight"]),
            gemm("dt_proj", tensors["dt_proj.weight"]),
            SELECTIVE_SCAN.call(self.name, channels=inner, state=self.state),
            gemm("out", tensors["out_proj.weight"]),
        )


def _dt_rank(hidden: int) -> int:
    """A sixteenth of the hidden size, rounded up."""
    return -(-hidden // 16)
