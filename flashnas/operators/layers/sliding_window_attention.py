"""Sliding-window attention (`swa`): the attention layer with a window; its cache is a ring of `window` tokens."""

from __future__ import annotations

from flashnas.operators.layers.attention import AttentionLayer


class SlidingWindowAttentionLayer(AttentionLayer):
    """See AttentionLayer; the window comes with the spec."""
