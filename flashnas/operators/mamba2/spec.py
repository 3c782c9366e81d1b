"""Mamba2, the state-space dual layer (`m2`); arXiv 2405.21060."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.base.errors import OperatorError
from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import SSD, conv, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OUTPUT_NORM_EPS,
    PROXY_HEAD_DIM,
    OperatorSpec,
    Role,
    TensorSpec,
    convolution,
    largest_divisor,
    linear,
    norm,
    scaled_dim,
    scaled_head_dim,
)


@dataclass(frozen=True, kw_only=True)
class Mamba2(OperatorSpec):
    """`m2`. inner size = expand x hidden, split into heads of head_dim; B and C have `state`
    channels per group.

    heads: number of heads in place of `expand`, as in Nemotron-H. bias: of both projections.
    dt_min: smallest time step.
    """

    kind = "m2"
    name = "mamba2"
    label = "Mamba2"
    colour = "#009E73"  # green
    family = "state space"
    layer = "flashnas.operators.mamba2.layer:Mamba2Layer"
    stands_alone = True
    norm_eps = OUTPUT_NORM_EPS
    hash_optional = frozenset({"heads", "bias", "conv_bias", "dt_min"})

    expand: int = 2
    head_dim: int = 64
    state: int = 128
    conv_size: int = 4
    groups: int = 1
    heads: int = 0
    bias: bool = False
    conv_bias: bool = True
    dt_min: float = 0.0

    def inner(self, hidden: int) -> int:
        return self.heads * self.head_dim or self.expand * hidden

    def head_count(self, hidden: int) -> int:
        heads = self._divided(self.inner(hidden), self.head_dim, "head_dim")
        if heads % self.groups:
            raise OperatorError(
                f"operator 'm2': groups must divide the {heads} heads; got {self.groups}"
            )
        return heads

    def resolved(self, hidden: int) -> Self:
        self.head_count(hidden)
        if not self.heads:
            return self
        whole = self.inner(hidden) % hidden == 0
        return dataclasses.replace(
            self,
            expand=self.inner(hidden) // hidden if whole else 1,
            heads=0 if whole else self.heads,
        )

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        full = self.resolved(hidden)
        heads = full.heads
        if heads:
            head_dim = scaled_dim(full.head_dim, factor, least_dim)
            heads = max(1, round(full.inner(hidden) / factor / head_dim))
        else:
            head_dim = scaled_head_dim(
                full.head_dim, factor, least_dim, full.inner(hidden) // factor
            )
        # all heads share the keys, whose projections would otherwise outgrow the layer
        least_state = max(PROXY_HEAD_DIM, least_dim // 2)
        count = heads or full.inner(hidden) // factor // head_dim
        return dataclasses.replace(
            full,
            head_dim=head_dim,
            heads=heads,
            groups=largest_divisor(count, self.groups),
            state=scaled_dim(self.state, factor, least_state),
        )

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        inner = self.inner(hidden)
        heads = self.head_count(hidden)
        shared = self.groups * self.state
        parts = {"z": inner, "x": inner, "B": shared, "C": shared, "dt": heads}
        yield from linear("in_proj", parts, hidden, Role.READS, self.bias)
        yield from convolution(inner + 2 * shared, self.conv_size, self.conv_bias)
        yield TensorSpec("dt_bias", (heads,), Role.BIAS)
        yield TensorSpec("A_log", (heads,), Role.DECAY)
        yield TensorSpec("D", (heads,), Role.VECTOR)
        yield norm("norm", inner)
        yield from linear("out_proj", hidden, inner, Role.WRITES, self.bias)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner = self.inner(hidden)
        tensors = self.named_tensors(hidden)
        return (
            pre_norm(hidden),
            gemm("in", tensors["in_proj.weight"]),
            conv(tensors["conv.weight"]),
            SSD.call(
                self.name,
                heads=self.head_count(hidden),
                key_dim=self.state,
                value_dim=self.head_dim,
                groups=self.groups,
            ),
            pointwise("gated_norm", 3 * inner),
            gemm("out", tensors["out_proj.weight"]),
        )
