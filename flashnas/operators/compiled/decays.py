"""How the decays of linear attention enter a chunk of tokens: those of key channels, and those of heads.
linear_attention.py explains it."""

from __future__ import annotations

import numba
import numpy as np

from flashnas.operators.compiled.jit import compiled
from flashnas.operators.compiled.vectors import (
    LANES,
    LOG2_E,
    exp2,
    fill,
    least,
    load,
    store,
)

CHUNK = 64
LARGEST = np.float32(60.0)
FORGETS = np.float32(26.0)
ZERO, ONE = np.float32(0.0), np.float32(1.0)


# -- decays by key channel: g are log decays -----------------------------------------------------------------


@compiled
def _segments_by_channel(g, at, stride, rate, tokens, size, starts, begin, since, grow):
    """Segments of a chunk; returns how many.

    Args:
        g: natural log decays, [size] per token from entry `at` of that size on, `stride` of them apart.
        starts: receives the first token of each segment, and after them `tokens`.
        begin: [segments, size], receives the decays of each segment's first token.
        since: [size], scratch.
        grow: [tokens, size], receives the decay since the segment's first token.
    """
    count, bound = 0, ZERO
    for t in range(tokens):
        row, lowest = (at + t * stride) * size, ZERO
        for i in range(0, size, LANES):
            lowest = min(lowest, least(load(g, row + i)) * LOG2_E)
        fresh = t == 0 or bound + lowest < -LARGEST
        bound = ZERO if fresh else bound + lowest
        if fresh:
            starts[count] = t
            count += 1
        for i in range(0, size, LANES):
            now = load(g, row + i) * fill(LOG2_E)
            if fresh:
                store(begin, (count - 1) * size + i, exp2(now))
                now = fill(0.0)
            else:
                now = load(since, i) + now
            store(since, i, now)
            store(grow, t * size + i, exp2(now))
    starts[count] = tokens
    return count


@compiled
def _divide_keys(q, k, v, g, at, stride, grow, tokens, key_dim, value_dim):
    """Queries by the decay, keys divided by it."""
    for i in range(0, tokens * key_dim, LANES):
        growth = load(grow, i)
        store(q, i, load(q, i) * growth)
        store(k, i, load(k, i) / growth)


@compiled
def _scale_rows(state, factors, n, rows, width):
    for i in range(rows):
        factor = fill(factors[n * rows + i])
        for j in range(0, width, LANES):
            store(state, i * width + j, load(state, i * width + j) * factor)


@compiled
def _scale_columns(state, factors, n, rows, width):
    for i in range(rows):
        for j in range(0, width, LANES):
            store(state, i * width + j, load(state, i * width + j) * load(factors, n * width + j))


# -- decays by head: g are time steps, which multiply rates and values ---------------------------------------


@compiled
def _segments_by_head(g, at, stride, rate, tokens, size, starts, begin, since, grow):
    """As by channel, with one decay per token in begin and grow; begin of a further segment is the decay
    since the first token of the one before, so that a state is scaled once between two segments."""
    count, total_log = 0, ZERO
    for t in range(tokens):
        log_decay = -g[at + t * stride] * rate * LOG2_E
        if t == 0 or total_log + log_decay < -LARGEST:
            starts[count] = t
            begin[count] = (grow[t - 1] if t else ONE) * np.exp2(log_decay)
            count += 1
            total_log = ZERO
        else:
            total_log += log_decay
        grow[t] = np.exp2(total_log)
    starts[count] = tokens
    return count


@compiled
def _scale_all(state, factors, n, rows, width):
    factor = fill(factors[n])
    for i in range(0, rows * width, LANES):
        store(state, i, load(state, i) * factor)


@compiled
def _divide_values(q, k, v, g, at, stride, grow, tokens, key_dim, value_dim):
    """Values by the time step, divided by the decay."""
    for t in range(tokens):
        factor = fill(g[at + t * stride] / grow[t])
        for j in range(t * value_dim, (t + 1) * value_dim, LANES):
            store(v, j, load(v, j) * factor)


# -- of either kind -----------------------------------------------------------------------------------------
# `channel` is a constant of the kernel that calls. Its closure must not hold these functions themselves:
# Numba then does not find it on disk.


@numba.njit(inline="always")
def segments(channel, g, at, stride, rate, tokens, size, starts, begin, since, grow):
    if channel:
        return _segments_by_channel(g, at, stride, rate, tokens, size, starts, begin, since, grow)
    return _segments_by_head(g, at, stride, rate, tokens, size, starts, begin, since, grow)


@numba.njit(inline="always")
def divide(channel, q, k, v, g, at, stride, grow, tokens, key_dim, value_dim):
    """Queries, and keys or values, by the decay."""
    if channel:
        _divide_keys(q, k, v, g, at, stride, grow, tokens, key_dim, value_dim)
    else:
        _divide_values(q, k, v, g, at, stride, grow, tokens, key_dim, value_dim)


@numba.njit(inline="always")
def scale(channel, state, factors, n, rows, width):
    if channel:
        _scale_rows(state, factors, n, rows, width)
    else:
        _scale_all(state, factors, n, rows, width)


@numba.njit(inline="always")
def scale_VK(channel, state, factors, n, rows, width):
    """The same of a state with rows of values."""
    if channel:
        _scale_columns(state, factors, n, rows, width)
    else:
        _scale_all(state, factors, n, rows, width)
