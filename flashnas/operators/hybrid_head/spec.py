"""Parallel hybrid head (`h`): attention and Mamba2 side by side in one operator, as in Hymba; arXiv
2411.13676."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from flashnas.base.errors import OperatorError
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import gemm, pointwise
from flashnas.operators.mamba2.spec import Mamba2
from flashnas.operators.narrowing import largest_divisor, scaled_dim, scaled_state
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, linear, norm


@dataclass(frozen=True, kw_only=True)
class HybridHead(OperatorSpec):
    """`h`. Both halves read the same input and put out heads x head_dim channels, each normalised
    with a weight per channel; one projection reads their mean.

    It has no layer: no program serves it in another order, so that it is estimated alone.

    heads, kv_heads, head_dim, qk_norm, rope_theta: of the attention, as in `a`; window 0: full
    attention. ssm_head_dim, state, groups, conv_size: of the Mamba2, whose heads follow from heads
    x head_dim.
    """

    kind = "h"
    name = "hybrid_head"
    label = "attention with Mamba2"
    colour = "#332288"  # indigo
    family = "attention and state space"
    minimums: ClassVar = {"head_dim": 2, "rope_theta": 1}

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 128
    window: int = 0
    qk_norm: bool = False
    rope_theta: float = 10000.0
    ssm_head_dim: int = 64
    state: int = 128
    groups: int = 1
    conv_size: int = 4

    def attention(self, hidden: int) -> Attention:
        """The half that looks back, with an output projection that this operator lacks."""
        options: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("heads", "kv_heads", "head_dim", "qk_norm", "rope_theta")
        }
        spec = (
            SlidingWindowAttention(**options, window=self.window)
            if self.window
            else Attention(**options)
        )
        try:
            return spec.resolved(hidden)
        except OperatorError as error:
            raise OperatorError(
                str(error).replace(f"operator {spec.kind!r}", "operator 'h'")
            ) from None

    def ssm(self, hidden: int) -> Mamba2:
        """The half that summarises, with an output projection that this operator lacks."""
        inner = self.inner(hidden)
        if inner % self.ssm_head_dim:
            raise OperatorError(
                f"operator 'h': ssm_head_dim must divide heads x head_dim = {inner};"
                f" got {self.ssm_head_dim}"
            )
        heads = inner // self.ssm_head_dim
        if heads % self.groups:
            raise OperatorError(
                f"operator 'h': groups must divide the {heads} heads of the Mamba2;"
                f" got {self.groups}"
            )
        return Mamba2(
            heads=heads,
            head_dim=self.ssm_head_dim,
            state=self.state,
            groups=self.groups,
            conv_size=self.conv_size,
        )

    def inner(self, hidden: int) -> int:
        """Channels that each half puts out."""
        return self.attention(hidden).heads * self.head_dim

    def resolved(self, hidden: int) -> Self:
        attention = self.attention(hidden)
        self.ssm(hidden)
        return dataclasses.replace(self, heads=attention.heads, kv_heads=attention.kv_heads)

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        attention = self.attention(hidden).scaled(hidden, factor, least_dim)
        inner = attention.heads * attention.head_dim
        ssm_head_dim = largest_divisor(inner, scaled_dim(self.ssm_head_dim, factor, least_dim))
        heads = inner // ssm_head_dim
        state = scaled_state(self.state, factor, least_dim)
        return dataclasses.replace(
            self,
            heads=attention.heads,
            kv_heads=attention.kv_heads,
            head_dim=attention.head_dim,
            window=attention.window_tokens,
            ssm_head_dim=ssm_head_dim,
            state=state,
            groups=largest_divisor(heads, self.groups),
        )

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        halves = {"attention": self.attention(hidden), "ssm": self.ssm(hidden)}
        for module, half in halves.items():
            for tensor in half.tensors(hidden):
                if tensor.role is not Role.WRITES:
                    yield tensor.inside(module)
        inner = self.inner(hidden)
        yield norm("norm", inner)  # of the attention; Mamba2 has one
        yield from linear("out_proj", hidden, inner, Role.WRITES)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        inner = self.inner(hidden)
        first, norm, *attention, _ = self.attention(hidden).kernels(hidden, phase)
        _, _, *ssm, out = self.ssm(hidden).kernels(hidden, phase)
        out_proj = self.named_tensors(hidden)["out_proj.weight"]
        mean = pointwise("norm_mean", 3 * inner, unfused=(2 * inner, 3 * inner))
        return (first, norm, *attention, *ssm, mean, gemm(out.label, out_proj))
