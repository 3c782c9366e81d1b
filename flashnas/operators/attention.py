"""Grouped-query softmax attention with rotary positions; full (`a`) or within a sliding window (`swa`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.errors import OperatorError
from flashnas.operators.spec import KernelCall, OperatorSpec, Phase, gemm, pointwise, scaled_dim


@dataclass(frozen=True, kw_only=True)
class Attention(OperatorSpec):
    """`a`. heads 0: hidden / head_dim; kv_heads 0: the largest divisor of heads up to heads / 4 (at least 1)."""

    kind = "a"
    name = "attention"
    least: ClassVar[dict[str, int]] = {"head_dim": 2, "rope_theta": 1}

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 128
    qk_norm: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10000.0

    @property
    def window_tokens(self) -> int:
        """Tokens seen at most, itself included; 0: all."""
        return 0

    def resolved(self, hidden: int) -> Self:
        heads = self.heads or self._divided(hidden, self.head_dim, "head_dim")
        kv_heads = self.kv_heads or max(d for d in range(1, max(heads // 4, 1) + 1) if heads % d == 0)
        if heads % kv_heads:
            raise OperatorError(f"operator {self.kind!r}: kv_heads must divide heads {heads}; got {kv_heads}")
        if self.head_dim % 2:
            raise OperatorError(f"operator {self.kind!r}: head_dim must be even for rotary positions;"
                                f" got {self.head_dim}")
        return dataclasses.replace(self, heads=heads, kv_heads=kv_heads)

    def scaled(self, hidden: int, factor: int) -> Self:
        if factor == 1:
            return self
        full = self.resolved(hidden)
        head_dim = scaled_dim(self.head_dim, factor)
        heads = max(1, round(full.heads * full.head_dim / factor / head_dim))
        group = full.heads // full.kv_heads
        kv_heads = max(d for d in range(1, max(heads // group, 1) + 1) if heads % d == 0)
        return dataclasses.replace(self, heads=heads, kv_heads=kv_heads, head_dim=head_dim)

    def params(self, hidden: int) -> int:
        s = self.resolved(hidden)
        qkv = (s.heads + 2 * s.kv_heads) * s.head_dim
        return (hidden + qkv * hidden + s.heads * s.head_dim * hidden
                + (qkv if s.qkv_bias else 0) + (2 * s.head_dim if s.qk_norm else 0))

    def flops(self, hidden: int, context: float) -> float:
        s = self.resolved(hidden)
        seen = min(context, self.window_tokens) if self.window_tokens else context
        return 4 * hidden * s.head_dim * (s.heads + s.kv_heads) + 4 * s.heads * s.head_dim * seen

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        s = self.resolved(hidden)
        kept = min(context, self.window_tokens) if self.window_tokens else context
        return 2 * s.kv_heads * s.head_dim * kept * dtype_bytes

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        s = self.resolved(hidden)
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        core = (("heads", s.heads), ("kv_heads", s.kv_heads), ("head_dim", s.head_dim), ("window", s.window_tokens))
        return (
            pointwise("residual_add", 3 * hidden, fusable=True),
            pointwise("rms_norm", 2 * hidden),
            gemm("qkv", n=q + 2 * kv, k=hidden, unfused=(q, kv, kv)),
            *([pointwise("qk_norm", 2 * (q + kv), unfused=(2 * q, 2 * kv))] if s.qk_norm else []),
            pointwise("rotary", 2 * (q + kv), unfused=(2 * q, 2 * kv)),
            pointwise("cache_write", 4 * kv, unfused=(2 * kv, 2 * kv)),
            KernelCall(f"attention_{phase}", core, self.name),
            gemm("out", n=hidden, k=q),
        )


@dataclass(frozen=True, kw_only=True)
class SlidingWindowAttention(Attention):
    """`swa`. Each token sees `window` tokens, itself included."""

    kind = "swa"
    name = "sliding_window_attention"
    least: ClassVar[dict[str, int]] = {"head_dim": 2, "rope_theta": 1, "window": 1}

    window: int = 512

    @property
    def window_tokens(self) -> int:
        return self.window

    def scaled(self, hidden: int, factor: int) -> Self:
        # proxy sequences are shorter too: an unscaled window would make this full attention
        return dataclasses.replace(super().scaled(hidden, factor), window=scaled_dim(self.window, factor))
