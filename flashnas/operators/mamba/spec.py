"""Mamba, the selective state space of the first version (`m`); arXiv 2312.00752."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import CONV, SELECTIVE_SCAN, STATE_BYTES, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, scaled_dim


@dataclass(frozen=True, kw_only=True)
class Mamba(OperatorSpec):
    """`m`. inner size = expand x hidden; each inner channel has a state of `state` values with decays of
    their own.

    dt_rank: width through which the time steps of all channels are projected; 0: hidden / 16, rounded up.
    bias: of the input and the output projection.
    """

    kind = "m"
    name = "mamba"
    label = "Mamba"
    colour = "#999933"  # olive
    family = "state space"
    layer = "flashnas.operators.mamba.layer:MambaLayer"
    own_rates = ("conv",)
    minimums: ClassVar[dict[str, int]] = {"expand": 1, "state": 1, "conv_size": 1}

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
        follows = self.dt_rank in (0, _dt_rank(hidden))  # from the hidden size, also in the smaller network
        rank = 0 if follows else max(1, round(self.dt_rank / factor))
        return dataclasses.replace(self, state=scaled_dim(self.state, factor, least_dim), dt_rank=rank)

    def params(self, hidden: int) -> int:
        inner, rank = self.inner(hidden), self.resolved(hidden).dt_rank
        # in: x, z; convolution; dt, B, C of x; A, D and dt bias per channel
        return (hidden + 2 * hidden * inner + inner * (self.conv_size + self.conv_bias)
                + inner * (rank + 2 * self.state) + rank * inner + inner * (self.state + 2)
                + inner * hidden + (2 * inner + hidden if self.bias else 0))

    def flops(self, hidden: int, context: float) -> float:
        inner, rank = self.inner(hidden), self.resolved(hidden).dt_rank
        projections = 6 * hidden * inner + 2 * inner * (2 * rank + 2 * self.state)
        # per entry of the state: its decay dt A, dt x B, a multiply-add each for the state and the output
        return projections + 2 * inner * self.conv_size + 6 * inner * self.state

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        inner = self.inner(hidden)
        return inner * self.state * STATE_BYTES + inner * (self.conv_size - 1) * dtype_bytes

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner, rank = self.inner(hidden), self.resolved(hidden).dt_rank
        return (
            *pre_norm(hidden),
            gemm("in", n=2 * inner, k=hidden),
            CONV.call("conv", channels=inner, conv_size=self.conv_size),
            gemm("x_proj", n=rank + 2 * self.state, k=inner),
            gemm("dt_proj", n=inner, k=rank),
            SELECTIVE_SCAN.call(self.name, channels=inner, state=self.state),
            pointwise("gate", 3 * inner, fusable=True, unfused=(2 * inner, 3 * inner)),
            gemm("out", n=hidden, k=inner),
        )


def _dt_rank(hidden: int) -> int:
    """A sixteenth of the hidden size, rounded up."""
    return -(-hidden // 16)
