"""Gated linear attention, compiled; in the signatures of recurrences/gla.py.

Within a segment of tokens no decay is applied to the state: queries are multiplied by the decay since the
segment's first token, keys divided by it, channel by channel. A segment ends after CHUNK tokens, or before a
divisor exceeds 2^LARGEST.

The gradient of a log decay is the sum of q dq - k dk of its channel over its own and all later tokens. The
sum starts anew at every chunk with the exact value, from the state that the forward pass kept there, and at
zero before a token whose decay is below 2^-FORGETS: what is left of the state is then less than the rounding
of the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashnas.operators.compiled.jit import bits, compiled, filled, flat, odd, rows, wide_copy
from flashnas.operators.compiled.steps import linear_step
from flashnas.operators.compiled.tiles import (
    CHUNK,
    FORGETS,
    LARGEST,
    clear,
    copy,
    inner_product,
    load_rows,
    pack,
    run_tiles,
    transpose,
)
from flashnas.operators.compiled.vectors import (
    LANES,
    LOG2_E,
    exp2,
    fill,
    least,
    load,
    store,
    store_bits,
    where_larger,
)
from flashnas.operators.recurrences.gla import gla_step as by_torch

ZERO = np.float32(0.0)


@compiled
def _segments(g: Any, at: int, stride: int, tokens: int, size: int, starts: Any, begin: Any, since: Any,
              grow: Any) -> int:
    """Segments of a chunk; returns how many.

    Args:
        g: natural log decays, [size] per token from `at` on, `stride` apart.
        starts: receives the first token of each segment, and after them `tokens`.
        begin: [segments, size], receives the decays of each segment's first token.
        since: [size], scratch.
        grow: [tokens, size], receives the decay since the segment's first token.
    """
    count, bound = 0, ZERO
    for t in range(tokens):
        lowest = ZERO
        for i in range(0, size, LANES):
            lowest = min(lowest, least(load(g, at + t * stride + i)) * LOG2_E)
        fresh = t == 0 or bound + lowest < -LARGEST
        bound = ZERO if fresh else bound + lowest
        if fresh:
            starts[count] = t
            count += 1
        for i in range(0, size, LANES):
            now = load(g, at + t * stride + i) * fill(LOG2_E)
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
def _decay(q: Any, k: Any, grow: Any, size: int) -> None:
    for i in range(0, size, LANES):
        growth = load(grow, i)
        store(q, i, load(q, i) * growth)
        store(k, i, load(k, i) / growth)


@compiled
def _scale_rows(state: Any, factors: Any, at: int, rows: int, width: int) -> None:
    for i in range(rows):
        factor = fill(factors[at + i])
        for j in range(0, width, LANES):
            store(state, i * width + j, load(state, i * width + j) * factor)


@compiled
def _scale_columns(state: Any, factors: Any, at: int, rows: int, width: int) -> None:
    for i in range(rows):
        for j in range(0, width, LANES):
            store(state, i * width + j, load(state, i * width + j) * load(factors, at + j))


@compiled
def _forward(q: Any, q_stride: int, k: Any, k_stride: int, v: Any, v_stride: int, half: bool, g: Any,
             state: Any, o: Any, kept: Any, room: Any, starts: Any, batch: int, length: int, heads: int,
             key_dim: int, value_dim: int) -> None:
    """kept [batch, heads, chunks, key, value]: receives the state before each chunk. `state` moves on."""
    size, chunks = key_dim * value_dim, (length + CHUNK - 1) // CHUNK
    a, c = CHUNK * key_dim, CHUNK * value_dim
    queries, keys, grow, begin, packed, room = (room[:a], room[a:2 * a], room[2 * a:3 * a], room[3 * a:4 * a],
                                                room[4 * a:6 * a], room[6 * a:])
    values, out, since = room[:c], room[c:2 * c], room[2 * c:]
    for b in range(batch):
        for h in range(heads):
            place = b * heads + h
            matrix = state[place * size:(place + 1) * size]
            for n in range(chunks):
                tokens, first = min(CHUNK, length - n * CHUNK), b * length + n * CHUNK
                if len(kept):
                    copy(matrix, 0, kept, (place * chunks + n) * size, size)
                load_rows(q, first * q_stride + h * key_dim, q_stride, half, tokens, key_dim, queries)
                load_rows(k, first * k_stride + h * key_dim, k_stride, half, tokens, key_dim, keys)
                load_rows(v, first * v_stride + h * value_dim, v_stride, half, tokens, value_dim, values)
                count = _segments(g, (first * heads + h) * key_dim, heads * key_dim, tokens, key_dim, starts,
                                  begin, since, grow)
                _decay(queries, keys, grow, tokens * key_dim)
                clear(out, tokens * value_dim)
                for s in range(count):
                    t, many = starts[s], starts[s + 1] - starts[s]
                    _scale_rows(matrix, begin, s * key_dim, key_dim, value_dim)
                    pack(queries, keys, t * key_dim, many, key_dim, packed)
                    run_tiles(packed, values, t * value_dim, out, t * value_dim, matrix, many, key_dim,
                              value_dim, False)
                    _scale_rows(matrix, grow, (t + many - 1) * key_dim, key_dim, value_dim)
                for t in range(tokens):
                    copy(out, t * value_dim, o, ((first + t) * heads + h) * value_dim, value_dim)


@compiled
def _backward(q: Any, q_stride: int, k: Any, k_stride: int, v: Any, v_stride: int, half: bool, g: Any,
              kept: Any, final: Any, grad_o: Any, grad_state: Any, grad_q: Any, grad_k: Any, grad_v: Any,
              grad_g: Any, room: Any, starts: Any, batch: int, length: int, heads: int, key_dim: int,
              value_dim: int) -> None:
    """grad_state: of the final state; becomes that of the first."""
    size, chunks = key_dim * value_dim, (length + CHUNK - 1) // CHUNK
    a, c = CHUNK * key_dim, CHUNK * value_dim
    queries, keys, grow, begin, packed_keys, room = (room[:a], room[a:2 * a], room[2 * a:3 * a],
                                                     room[3 * a:4 * a], room[4 * a:6 * a], room[6 * a:])
    grad_queries, grad_keys, later, since, room = (room[:a], room[a:2 * a], room[2 * a:2 * a + key_dim],
                                                   room[2 * a + key_dim:2 * a + 2 * key_dim],
                                                   room[2 * a + 2 * key_dim:])
    values, grad_out, grad_values, packed_values, room = (room[:c], room[c:2 * c], room[2 * c:3 * c],
                                                          room[3 * c:5 * c], room[5 * c:])
    state_VK, grad_VK = room[:size], room[size:2 * size]
    for b in range(batch):
        for h in range(heads):
            place = b * heads + h
            grad_matrix = grad_state[place * size:(place + 1) * size]
            transpose(grad_matrix, 0, key_dim, value_dim, grad_VK)
            for n in range(chunks - 1, -1, -1):
                tokens, first = min(CHUNK, length - n * CHUNK), b * length + n * CHUNK
                at, row = (place * chunks + n) * size, (first * heads + h) * key_dim
                for i in range(key_dim):
                    if n == chunks - 1:
                        later[i] = inner_product(grad_matrix, i * value_dim, final,
                                                 place * size + i * value_dim, value_dim)
                    else:
                        later[i] = inner_product(grad_matrix, i * value_dim, kept, at + size + i * value_dim,
                                                 value_dim)
                transpose(kept, at, key_dim, value_dim, state_VK)
                load_rows(q, first * q_stride + h * key_dim, q_stride, half, tokens, key_dim, queries)
                load_rows(k, first * k_stride + h * key_dim, k_stride, half, tokens, key_dim, keys)
                load_rows(v, first * v_stride + h * value_dim, v_stride, half, tokens, value_dim, values)
                for t in range(tokens):
                    copy(grad_o, ((first + t) * heads + h) * value_dim, grad_out, t * value_dim, value_dim)
                count = _segments(g, row, heads * key_dim, tokens, key_dim, starts, begin, since, grow)
                _decay(queries, keys, grow, tokens * key_dim)
                clear(grad_queries, tokens * key_dim)
                clear(grad_keys, tokens * key_dim)
                clear(grad_values, tokens * value_dim)
                for s in range(count):
                    t, many = starts[s], starts[s + 1] - starts[s]
                    _scale_columns(state_VK, begin, s * key_dim, value_dim, key_dim)
                    pack(grad_out, values, t * value_dim, many, value_dim, packed_values)
                    run_tiles(packed_values, keys, t * key_dim, grad_queries, t * key_dim, state_VK, many,
                              value_dim, key_dim, False)
                    _scale_columns(state_VK, grow, (t + many - 1) * key_dim, value_dim, key_dim)
                for s in range(count - 1, -1, -1):
                    t, many = starts[s], starts[s + 1] - starts[s]
                    _scale_rows(grad_matrix, grow, (t + many - 1) * key_dim, key_dim, value_dim)
                    _scale_columns(grad_VK, grow, (t + many - 1) * key_dim, value_dim, key_dim)
                    pack(keys, queries, t * key_dim, many, key_dim, packed_keys)
                    run_tiles(packed_keys, grad_out, t * value_dim, grad_values, t * value_dim, grad_matrix,
                              many, key_dim, value_dim, True)
                    pack(values, grad_out, t * value_dim, many, value_dim, packed_values)
                    run_tiles(packed_values, queries, t * key_dim, grad_keys, t * key_dim, grad_VK, many,
                              value_dim, key_dim, True)
                    _scale_rows(grad_matrix, begin, s * key_dim, key_dim, value_dim)
                    _scale_columns(grad_VK, begin, s * key_dim, value_dim, key_dim)
                for t in range(tokens - 1, -1, -1):
                    row = (first + t) * heads + h
                    for i in range(0, key_dim, LANES):
                        here, growth = t * key_dim + i, load(grow, t * key_dim + i)
                        grad_query, grad_key = load(grad_queries, here), load(grad_keys, here)
                        share = load(queries, here) * grad_query - load(keys, here) * grad_key
                        here_g = load(g, row * key_dim + i) * fill(LOG2_E)
                        store(later, i,
                              where_larger(here_g, fill(-FORGETS), load(later, i) + share, fill(0.0)))
                        store(grad_g, row * key_dim + i, load(later, i))
                        store_bits(grad_q, row * key_dim + i, grad_query * growth, half)
                        store_bits(grad_k, row * key_dim + i, grad_key / growth, half)
                    for j in range(0, value_dim, LANES):
                        store_bits(grad_v, row * value_dim + j, load(grad_values, t * value_dim + j), half)


class _Gla(torch.autograd.Function):
    """q, k and v in one dtype. Sizes of keys and values are multiples of 16."""

    @staticmethod
    def forward(ctx: Any, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, heads, key_dim = q_BTHK.shape
        value_dim = v_BTHV.shape[-1]
        ctx.sizes = batch, length, heads, key_dim, value_dim
        g_BTHK, final_BHKV = g_BTHK.contiguous(), wide_copy(state_BHKV)
        o_BTHV = torch.empty(batch, length, heads, value_dim)
        chunks = -(-length // CHUNK) if any(ctx.needs_input_grad) else 0
        kept = torch.empty(batch, heads, chunks, key_dim, value_dim)
        room = torch.empty(CHUNK * (6 * key_dim + 2 * value_dim) + key_dim)
        starts = torch.empty(CHUNK + 1, dtype=torch.int64)
        _forward(*rows(q_BTHK), *rows(k_BTHK), *rows(v_BTHV), v_BTHV.dtype == torch.bfloat16, flat(g_BTHK),
                 flat(final_BHKV), flat(o_BTHV), flat(kept), flat(room), flat(starts), *ctx.sizes)
        ctx.save_for_backward(q_BTHK, k_BTHK, v_BTHV, g_BTHK, kept, final_BHKV)
        return o_BTHV, final_BHKV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        q_BTHK, k_BTHK, v_BTHV, g_BTHK, kept, final_BHKV = ctx.saved_tensors
        key_dim, value_dim = ctx.sizes[-2:]
        grad_o_BTHV, grad_state_BHKV = output_grads[0].contiguous(), wide_copy(output_grads[1])
        grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype) for x in (q_BTHK, k_BTHK, v_BTHV))
        grad_g = torch.empty(g_BTHK.shape)
        room = torch.empty(CHUNK * (8 * key_dim + 5 * value_dim) + 2 * key_dim + 2 * key_dim * value_dim)
        starts = torch.empty(CHUNK + 1, dtype=torch.int64)
        _backward(*rows(q_BTHK), *rows(k_BTHK), *rows(v_BTHV), v_BTHV.dtype == torch.bfloat16, flat(g_BTHK),
                  flat(kept), flat(final_BHKV), flat(grad_o_BTHV), flat(grad_state_BHKV), bits(grad_q),
                  bits(grad_k), bits(grad_v), flat(grad_g), flat(room), flat(starts), *ctx.sizes)
        return grad_q, grad_k, grad_v, grad_g, grad_state_BHKV


def gla(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
        state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.gla.gla_chunked`: q, k and v in float32 or bfloat16, everything else in float32."""
    if not q_BTHK.dtype == k_BTHK.dtype == v_BTHV.dtype == torch.bfloat16:
        q_BTHK, k_BTHK, v_BTHV = (part.float() for part in (q_BTHK, k_BTHK, v_BTHV))
    key_dim, value_dim = state_BHKV.shape[-2:]
    if odd(state_BHKV):
        (q_BTHK, k_BTHK, g_BTHK), v_BTHV, state_BHKV = filled((q_BTHK, k_BTHK, g_BTHK), v_BTHV, state_BHKV)
    o, state = _Gla.apply(q_BTHK, k_BTHK, v_BTHV, g_BTHK, state_BHKV)
    return o[..., :value_dim], state[..., :key_dim, :value_dim]


def gla_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.gla.gla_step` without gradients; the state is written in place. By torch if sizes are odd.
    """
    if odd(state_BHKV):
        return by_torch(q_BHK.float(), k_BHK.float(), v_BHV.float(), g_BHK, state_BHKV)
    return linear_step(q_BHK, k_BHK, v_BHV, g_BHK, None, state_BHKV)
