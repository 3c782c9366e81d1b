"""Grouped-query softmax attention with rotary positions; full (`a`) or within a sliding window
(`swa`).
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.base.errors import OperatorError
from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import ATTENTION, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OperatorSpec,
    Role,
    TensorSpec,
    largest_divisor,
    linear,
    norm,
    scaled_dim,
)

DEFAULT_THETA = 10000.0


@dataclass(frozen=True, kw_only=True)
class Attention(OperatorSpec):
    """`a`. heads and kv_heads 0: a quarter of hidden / head_dim key heads (rounded down, at least
    1) and as many query heads as divide evenly among them, at most hidden / head_dim. Neither
    number falls when the hidden size grows. heads alone 0: hidden / head_dim. kv_heads alone 0: the
    largest divisor of heads up to heads / 4, at least 1.

    out_gate: the output times the sigmoid of a gate as wide as the queries, as in Qwen3-Next;
    qkv_bias covers it. rope_share: share of each head's channels that positions rotate; 0: none.
    rope_factor divides their frequencies: all of them where rope_original is 0, else as in Llama
    3.1 those that turn slowly over rope_original tokens.
    """

    kind = "a"
    name = "attention"
    label = "attention"
    colour = "#D55E00"  # vermilion
    family = "attention"
    layer = "flashnas.operators.attention.layer:AttentionLayer"
    minimums: ClassVar = {"head_dim": 2, "rope_theta": 1, "rope_factor": 1}
    hash_optional = frozenset(
        {"out_bias", "out_gate", "rope_share", "rope_factor", "rope_original"}
    )

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

    def head_counts(self, hidden: int) -> tuple[int, int]:
        """Query heads and key heads."""
        heads = self.heads or self._divided(hidden, self.head_dim, "head_dim")
        kv_heads = self.kv_heads
        if not kv_heads and self.heads:
            kv_heads = largest_divisor(heads, heads // 4)
        elif not kv_heads:
            kv_heads = max(heads // 4, 1)
            heads -= heads % kv_heads
        if heads % kv_heads:
            raise OperatorError(
                f"operator {self.kind!r}: kv_heads must divide heads {heads}; got {kv_heads}"
            )
        return heads, kv_heads

    def resolved(self, hidden: int) -> Self:
        heads, kv_heads = self.head_counts(hidden)
        if self.rope_share > 1:
            raise OperatorError(
                f"operator {self.kind!r}: rope_share must be at most 1; got {self.rope_share}"
            )
        if self.rotary_dim % 2:
            what = "head_dim" if self.rope_share == 1 else "rope_share x head_dim"
            raise OperatorError(
                f"operator {self.kind!r}: {what} must be even for rotary positions;"
                f" got {self.rotary_dim}"
            )
        theta, factor, original = self._rope()
        return dataclasses.replace(
            self,
            heads=heads,
            kv_heads=kv_heads,
            rope_share=self.rotary_dim / self.head_dim,
            rope_theta=theta,
            rope_factor=factor,
            rope_original=original,
        )

    def _rope(self) -> tuple[float, float, int]:
        """rope_theta, rope_factor and rope_original, each at its default where it changes no
        frequency.
        """
        if not self.rotary_dim:
            return DEFAULT_THETA, 1.0, 0
        # a single frequency is 1 for every theta
        theta = self.rope_theta if self.rotary_dim > 2 else DEFAULT_THETA
        factor = self.rope_factor
        original = self.rope_original if self.rope_factor > 1 else 0
        # the fastest channel, 1 radian per token, turns once at most: all are slow
        if original / (2 * math.pi) <= 1:
            original = 0
        elif original * theta ** (2 / self.rotary_dim - 1) / (2 * math.pi) >= 4:
            # the slowest one is fast
            factor, original = 1.0, 0
        return theta, factor, original

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        full = self.resolved(hidden)
        head_dim = scaled_dim(self.head_dim, factor, least_dim)
        if full.rope_share == 1:
            head_dim -= head_dim % 2  # positions rotate pairs of channels
        heads = max(1, round(full.heads * full.head_dim / factor / head_dim))
        kv_heads = largest_divisor(heads, heads // (full.heads // full.kv_heads))
        share = full.rope_share
        if share not in (0, 1):
            share = 2 * round(share * head_dim / 2) / head_dim
        return dataclasses.replace(
            self, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rope_share=share
        )

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        s = self.resolved(hidden)
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        parts = {"q": q, "k": kv, "v": kv} | ({"gate": q} if s.out_gate else {})
        yield from linear("in_proj", parts, hidden, Role.READS, s.qkv_bias)
        if s.qk_norm:
            yield norm("q_norm", s.head_dim)
            yield norm("k_norm", s.head_dim)
        yield from linear("out_proj", hidden, q, Role.WRITES, s.out_bias)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        s = self.resolved(hidden)
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        q, kv, *_ = into.rows()
        return (
            pre_norm(hidden),
            gemm("qkv", into),
            *([pointwise("qk_norm", 2 * (q + kv))] if s.qk_norm else []),
            *(
                [pointwise("rotary", 2 * (s.heads + s.kv_heads) * s.rotary_dim)]
                if s.rotary_dim
                else []
            ),
            pointwise("cache_write", 4 * kv),
            ATTENTION.call(
                self.name,
                heads=s.heads,
                kv_heads=s.kv_heads,
                head_dim=s.head_dim,
                window=s.window_tokens,
            ),
            *([pointwise("out_gate", 3 * q)] if s.out_gate else []),
            gemm("out", tensors["out_proj.weight"]),
        )


@dataclass(frozen=True, kw_only=True)
class SlidingWindowAttention(Attention):
    """`swa`. Each token sees `window` tokens, itself included."""

    kind = "swa"
    name = "sliding_window_attention"
    label = "sliding-window attention"
    colour = "#E69F00"  # orange, beside the vermilion of attention

    window: int = 512

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        # proxy sequences are shorter too: an unscaled window would make this full attention
        small = super().narrowed(hidden, factor, least_dim)
        return dataclasses.replace(small, window=scaled_dim(self.window, factor, least_dim))
