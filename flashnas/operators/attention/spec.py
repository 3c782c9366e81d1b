"""Grouped-query softmax attention with rotary positions; full (`a`) or within a sliding window (`swa`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.base.errors import OperatorError
from flashnas.operators.spec import KernelCall, OperatorSpec, Phase, gemm, pointwise, scaled_dim


@dataclass(frozen=True, kw_only=True)
class Attention(OperatorSpec):
    """`a`. heads 0: hidden / head_dim; kv_heads 0: the largest divisor of heads up to heads / 4 (at least 1).

    out_gate: the output times the sigmoid of a gate as wide as the queries, as in Qwen3-Next; qkv_bias covers it.
    rope_share: share of each head's channels that positions rotate; 0: none. rope_factor divides their frequencies:
    all of them where rope_original is 0, else as in Llama 3.1 those that turn slowly over rope_original tokens.
    """

    kind = "a"
    name = "attention"
    layer = "flashnas.operators.attention.layer:AttentionLayer"
    least: ClassVar[dict[str, int]] = {"head_dim": 2, "rope_theta": 1, "rope_factor": 1}
    later: ClassVar[frozenset[str]] = frozenset({"out_bias", "out_gate", "rope_share", "rope_factor", "rope_original"})

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 128
    qk_norm: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10000.0
    out_bias: bool = False
    out_gate: bool = False
    rope_share: float = 1.0
    rope_factor: float = 1.0
    rope_original: int = 0

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that positions rotate."""
        return int(self.head_dim * self.rope_share + 1e-9)  # as transformers cuts it off

    @property
    def window_tokens(self) -> int:
        """Tokens seen at most, itself included; 0: all."""
        return 0

    def resolved(self, hidden: int) -> Self:
        heads = self.heads or self._divided(hidden, self.head_dim, "head_dim")
        kv_heads = self.kv_heads or max(d for d in range(1, max(heads // 4, 1) + 1) if heads % d == 0)
        if heads % kv_heads:
            raise OperatorError(f"operator {self.kind!r}: kv_heads must divide heads {heads}; got {kv_heads}")
        if self.rope_share > 1:
            raise OperatorError(f"operator {self.kind!r}: rope_share must be at most 1; got {self.rope_share}")
        if self.rotary_dim % 2:
            what = "head_dim" if self.rope_share == 1 else "rope_share x head_dim"
            raise OperatorError(f"operator {self.kind!r}: {what} must be even for rotary positions;"
                                f" got {self.rotary_dim}")
        full = dataclasses.replace(self, heads=heads, kv_heads=kv_heads)
        if not self.rotary_dim:  # the same network whatever the positions
            return dataclasses.replace(full, rope_share=0.0, rope_theta=10000.0, rope_factor=1.0, rope_original=0)
        return dataclasses.replace(full, rope_share=self.rotary_dim / self.head_dim,
                                   rope_original=self.rope_original if self.rope_factor > 1 else 0)

    def scaled(self, hidden: int, factor: int) -> Self:
        if factor == 1:
            return self
        full = self.resolved(hidden)
        head_dim = scaled_dim(self.head_dim, factor)
        heads = max(1, round(full.heads * full.head_dim / factor / head_dim))
        group = full.heads // full.kv_heads
        kv_heads = max(d for d in range(1, max(heads // group, 1) + 1) if heads % d == 0)
        share = self.rope_share if self.rope_share in (0, 1) else 2 * round(self.rope_share * head_dim / 2) / head_dim
        return dataclasses.replace(self, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rope_share=share)

    def params(self, hidden: int) -> int:
        s = self.resolved(hidden)
        q = s.heads * s.head_dim
        into = (1 + s.out_gate) * q + 2 * s.kv_heads * s.head_dim
        return (hidden + into * hidden + q * hidden + (into if s.qkv_bias else 0)
                + (hidden if s.out_bias else 0) + (2 * s.head_dim if s.qk_norm else 0))

    def flops(self, hidden: int, context: float) -> float:
        s = self.resolved(hidden)
        seen = min(context, self.window_tokens) if self.window_tokens else context
        gate = 2 * hidden * s.head_dim * s.heads if s.out_gate else 0
        return 4 * hidden * s.head_dim * (s.heads + s.kv_heads) + gate + 4 * s.heads * s.head_dim * seen

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        s = self.resolved(hidden)
        kept = min(context, self.window_tokens) if self.window_tokens else context
        return 2 * s.kv_heads * s.head_dim * kept * dtype_bytes

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        s = self.resolved(hidden)
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        gate = q if s.out_gate else 0
        turned_q, turned_kv = s.heads * s.rotary_dim, s.kv_heads * s.rotary_dim
        core = (("heads", s.heads), ("kv_heads", s.kv_heads), ("head_dim", s.head_dim), ("window", s.window_tokens))
        return (
            pointwise("residual_add", 3 * hidden, fusable=True),
            pointwise("rms_norm", 2 * hidden),
            gemm("qkv", n=q + 2 * kv + gate, k=hidden, unfused=(q + gate, kv, kv)),
            *([pointwise("qk_norm", 2 * (q + kv), unfused=(2 * q, 2 * kv))] if s.qk_norm else []),
            *([pointwise("rotary", 2 * (turned_q + turned_kv), unfused=(2 * turned_q, 2 * turned_kv))]
              if s.rotary_dim else []),
            pointwise("cache_write", 4 * kv, unfused=(2 * kv, 2 * kv)),
            KernelCall(f"attention_{phase}", core, self.name),
            *([pointwise("out_gate", 3 * q, unfused=(2 * q, 3 * q))] if s.out_gate else []),
            gemm("out", n=hidden, k=q),
        )


@dataclass(frozen=True, kw_only=True)
class SlidingWindowAttention(Attention):
    """`swa`. Each token sees `window` tokens, itself included."""

    kind = "swa"
    name = "sliding_window_attention"
    least: ClassVar[dict[str, int]] = {**Attention.least, "window": 1}

    window: int = 512

    @property
    def window_tokens(self) -> int:
        return self.window

    def scaled(self, hidden: int, factor: int) -> Self:
        # proxy sequences are shorter too: an unscaled window would make this full attention
        return dataclasses.replace(super().scaled(hidden, factor), window=scaled_dim(self.window, factor))
