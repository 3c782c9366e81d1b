"""Mamba2, the state-space dual layer (`m2`); arXiv 2405.21060."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.errors import OperatorError
from flashnas.operators.spec import STATE_BYTES, KernelCall, OperatorSpec, Phase, gemm, pointwise, scaled_dim


@dataclass(frozen=True, kw_only=True)
class Mamba2(OperatorSpec):
    """`m2`. inner size = expand x hidden, split into heads of head_dim; B and C have `state` channels per group."""

    kind = "m2"
    name = "mamba2"
    least: ClassVar[dict[str, int]] = {"expand": 1, "head_dim": 1, "state": 1, "conv_size": 1, "groups": 1}

    expand: int = 2
    head_dim: int = 64
    state: int = 128
    conv_size: int = 4
    groups: int = 1

    def inner(self, hidden: int) -> int:
        return self.expand * hidden

    def heads(self, hidden: int) -> int:
        heads = self._divided(self.inner(hidden), self.head_dim, "head_dim")
        if heads % self.groups:
            raise OperatorError(f"operator 'm2': groups must divide the {heads} heads; got {self.groups}")
        return heads

    def conv_channels(self, hidden: int) -> int:
        return self.inner(hidden) + 2 * self.groups * self.state

    def resolved(self, hidden: int) -> Self:
        self.heads(hidden)
        return self

    def scaled(self, hidden: int, factor: int) -> Self:
        return dataclasses.replace(self, head_dim=scaled_dim(self.head_dim, factor),
                                   state=scaled_dim(self.state, factor))

    def params(self, hidden: int) -> int:
        inner, heads, channels = self.inner(hidden), self.heads(hidden), self.conv_channels(hidden)
        # in: z, x, B, C, dt; the convolution has a bias; A, D and dt bias per head; gated norm over inner
        return (hidden + hidden * (inner + channels + heads) + channels * (self.conv_size + 1)
                + 3 * heads + inner + inner * hidden)

    def flops(self, hidden: int, context: float) -> float:
        inner, channels = self.inner(hidden), self.conv_channels(hidden)
        projections = 2 * hidden * (inner + channels + self.heads(hidden)) + 2 * inner * hidden
        return projections + 2 * channels * self.conv_size + 5 * inner * self.state

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        return (self.inner(hidden) * self.state * STATE_BYTES
                + self.conv_channels(hidden) * (self.conv_size - 1) * dtype_bytes)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner, heads, channels = self.inner(hidden), self.heads(hidden), self.conv_channels(hidden)
        return (
            pointwise("residual_add", 3 * hidden, fusable=True),
            pointwise("rms_norm", 2 * hidden),
            gemm("in", n=inner + channels + heads, k=hidden),
            KernelCall(f"conv_{phase}", (("channels", channels), ("conv_size", self.conv_size)), "conv"),
            KernelCall(f"ssd_{phase}", (("heads", heads), ("key_dim", self.state), ("value_dim", self.head_dim),
                                        ("groups", self.groups)), self.name),
            pointwise("gated_norm", 3 * inner, unfused=(2 * inner, 3 * inner)),
            gemm("out", n=hidden, k=inner),
        )
