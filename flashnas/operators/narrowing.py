"""Heads and states of the operators of a narrower network, such as a proxy."""

from __future__ import annotations

import math

# smallest head of a scaled-down operator by default: a state of 8 x 8 would hold too little
PROXY_HEAD_DIM = 16


def scaled_dim(dim: int, factor: int, least_dim: int = PROXY_HEAD_DIM) -> int:
    """A head or state size shrunk by `factor`, but not below `least_dim` (nor above itself)."""
    return min(dim, max(least_dim, dim // factor))


def scaled_head_dim(dim: int, factor: int, least_dim: int, size: int) -> int:
    """As `scaled_dim`, for heads that must divide `size`: of its divisors the one nearest to that
    in ratio.
    """
    wanted = scaled_dim(dim, factor, least_dim)
    return min(
        (d for d in range(1, size + 1) if size % d == 0),
        key=lambda d: (abs(math.log(d / wanted)), -d),
    )


def scaled_state(state: int, factor: int, least_dim: int = PROXY_HEAD_DIM) -> int:
    """As `scaled_dim`, for the keys of Mamba2: they may fall to half of `least_dim`, because all
    heads share them and their projections would otherwise outgrow the layer."""
    return scaled_dim(state, factor, max(PROXY_HEAD_DIM, least_dim // 2))


def largest_divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`; 1 if `most` is smaller."""
    small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    return max((d for d in (*small, *(size // d for d in small)) if d <= most), default=1)
