"""The state-space dual recurrence of Mamba2, compiled; in the signatures of recurrences/ssd.py.

Within a segment of tokens no decay is applied to the state: values are divided by the decay since the
segment's first token, outputs multiplied by it. A segment ends after CHUNK tokens, or before the divisor
exceeds 2^LARGEST. Queries and keys, which all heads of a group share, are packed once for all of them.

The gradient of a log decay is the sum of do o - v dv over its own and all later tokens. The sum starts anew
at every chunk with the exact value, from the state that the forward pass kept there, and at zero before a
token whose decay is below 2^-FORGETS: what is left of the state is then less than the rounding of the sum.
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
    scale,
    transpose,
)
from flashnas.operators.compiled.vectors import (
    LANES,
    LOG2_E,
    fill,
    fma,
    load,
    load_bits,
    store,
    store_bits,
    total,
)
from flashnas.operators.recurrences.ssd import ssd_scan_step as by_torch

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@compiled
def _segments(dt: Any, at: int, stride: int, rate: float, tokens: int, starts: Any, begin: Any,
              grow: Any) -> int:
    """Segments of a chunk; returns how many.

    starts: receives the first token of each, and after them `tokens`. begin: receives the decay of its first
    token. grow: receives each token's decay since the segment's first token.
    """
    count, since = 0, ZERO
    for t in range(tokens):
        g = -dt[at + t * stride] * rate * LOG2_E
        if t == 0 or since + g < -LARGEST:
            starts[count], begin[count] = t, np.exp2(g)
            count += 1
            since = ZERO
        else:
            since += g
        grow[t] = np.exp2(since)
    starts[count] = tokens
    return count


@compiled
def _forward(q: Any, q_stride: int, k: Any, k_stride: int, x: Any, x_stride: int, half: bool, dt: Any,
             rate: Any, state: Any, o: Any, kept: Any, room: Any, starts: Any, batch: int, length: int,
             groups: int, heads: int, key_dim: int, value_dim: int) -> None:
    """kept [batch, heads, chunks, key, value]: receives the state before each chunk. `state` moves on."""
    size, chunks, repeats = key_dim * value_dim, (length + CHUNK - 1) // CHUNK, heads // groups
    keys, queries = room[:CHUNK * key_dim], room[CHUNK * key_dim:2 * CHUNK * key_dim]
    packed = room[2 * CHUNK * key_dim:4 * CHUNK * key_dim]
    v, out = room[4 * CHUNK * key_dim:], room[4 * CHUNK * key_dim + CHUNK * value_dim:]
    grow = room[4 * CHUNK * key_dim + 2 * CHUNK * value_dim:]
    begin = grow[CHUNK:]
    for b in range(batch):
        for group in range(groups):
            for n in range(chunks):
                tokens, first = min(CHUNK, length - n * CHUNK), b * length + n * CHUNK
                load_rows(q, first * q_stride + group * key_dim, q_stride, half, tokens, key_dim, queries)
                load_rows(k, first * k_stride + group * key_dim, k_stride, half, tokens, key_dim, keys)
                whole = False  # whether `packed` holds the whole chunk
                for h in range(group * repeats, (group + 1) * repeats):
                    place = b * heads + h
                    matrix = state[place * size:(place + 1) * size]
                    if len(kept):
                        at = (place * chunks + n) * size
                        copy(matrix, 0, kept, at, size)
                    count = _segments(dt, first * heads + h, heads, rate[h], tokens, starts, begin, grow)
                    for t in range(tokens):
                        factor = fill(dt[(first + t) * heads + h] / grow[t])
                        for j in range(0, value_dim, LANES):
                            value = load_bits(x, (first + t) * x_stride + h * value_dim + j, half)
                            store(v, t * value_dim + j, value * factor)
                            store(out, t * value_dim + j, fill(0.0))
                    before = ONE
                    for s in range(count):
                        t, length_s = starts[s], starts[s + 1] - starts[s]
                        if count > 1 or not whole:
                            pack(queries, keys, t * key_dim, length_s, key_dim, packed)
                            whole = count == 1
                        scale(matrix, before * begin[s], size)
                        run_tiles(packed, v, t * value_dim, out, t * value_dim, matrix, length_s, key_dim,
                                  value_dim, False)
                        before = grow[t + length_s - 1]
                    scale(matrix, before, size)
                    for t in range(tokens):
                        for j in range(0, value_dim, LANES):
                            store(o, ((first + t) * heads + h) * value_dim + j,
                                  load(out, t * value_dim + j) * fill(grow[t]))


@compiled
def _backward(q: Any, q_stride: int, k: Any, k_stride: int, x: Any, x_stride: int, half: bool, dt: Any,
              rate: Any, kept: Any, final: Any, o: Any, grad_o: Any, grad_state: Any, grad_q: Any,
              grad_k: Any, grad_x: Any, grad_dt: Any, grad_rate: Any, room: Any, starts: Any, batch: int,
              length: int, groups: int, heads: int, key_dim: int, value_dim: int) -> None:
    """grad_state: of the final state; becomes that of the first. grad_rate: added to."""
    size, chunks, repeats = key_dim * value_dim, (length + CHUNK - 1) // CHUNK, heads // groups
    a, c = CHUNK * key_dim, CHUNK * value_dim
    queries, keys, grad_queries, grad_keys = room[:a], room[a:2 * a], room[2 * a:3 * a], room[3 * a:4 * a]
    packed_keys, room = room[4 * a:6 * a], room[6 * a:]
    v, grad_out, grad_v, packed_values = room[:c], room[c:2 * c], room[2 * c:3 * c], room[3 * c:5 * c]
    room = room[5 * c:]
    state_VK, grad_VK, grow, begin = room[:size], room[size:2 * size], room[2 * size:], room[2 * size
                                                                                             + CHUNK:]
    for b in range(batch):
        for group in range(groups):
            for n in range(chunks - 1, -1, -1):
                tokens, first = min(CHUNK, length - n * CHUNK), b * length + n * CHUNK
                load_rows(q, first * q_stride + group * key_dim, q_stride, half, tokens, key_dim, queries)
                load_rows(k, first * k_stride + group * key_dim, k_stride, half, tokens, key_dim, keys)
                clear(grad_queries, tokens * key_dim)
                clear(grad_keys, tokens * key_dim)
                whole = False
                for h in range(group * repeats, (group + 1) * repeats):
                    place = b * heads + h
                    at = (place * chunks + n) * size
                    grad_matrix = grad_state[place * size:(place + 1) * size]
                    if n == chunks - 1:
                        grad_g = inner_product(grad_matrix, 0, final, place * size, size)
                    else:
                        grad_g = inner_product(grad_matrix, 0, kept, at + size, size)
                    transpose(kept, at, key_dim, value_dim, state_VK)
                    transpose(grad_matrix, 0, key_dim, value_dim, grad_VK)
                    count = _segments(dt, first * heads + h, heads, rate[h], tokens, starts, begin, grow)
                    for t in range(tokens):
                        row = (first + t) * heads + h
                        factor, growth = fill(dt[row] / grow[t]), fill(grow[t])
                        for j in range(0, value_dim, LANES):
                            value = load_bits(x, (first + t) * x_stride + h * value_dim + j, half)
                            store(v, t * value_dim + j, value * factor)
                            store(grad_out, t * value_dim + j, load(grad_o, row * value_dim + j) * growth)
                            store(grad_v, t * value_dim + j, fill(0.0))
                    before = ONE
                    for s in range(count):
                        t, length_s = starts[s], starts[s + 1] - starts[s]
                        scale(state_VK, before * begin[s], size)
                        pack(grad_out, v, t * value_dim, length_s, value_dim, packed_values)
                        run_tiles(packed_values, keys, t * key_dim, grad_queries, t * key_dim, state_VK,
                                  length_s, value_dim, key_dim, False)
                        before = grow[t + length_s - 1]
                    after = ONE
                    for s in range(count - 1, -1, -1):
                        t, length_s = starts[s], starts[s + 1] - starts[s]
                        after *= grow[t + length_s - 1]
                        scale(grad_matrix, after, size)
                        scale(grad_VK, after, size)
                        if count > 1 or not whole:
                            pack(keys, queries, t * key_dim, length_s, key_dim, packed_keys)
                            whole = count == 1
                        run_tiles(packed_keys, grad_out, t * value_dim, grad_v, t * value_dim, grad_matrix,
                                  length_s, key_dim, value_dim, True)
                        pack(v, grad_out, t * value_dim, length_s, value_dim, packed_values)
                        run_tiles(packed_values, queries, t * key_dim, grad_keys, t * key_dim, grad_VK,
                                  length_s, value_dim, key_dim, True)
                        after = begin[s]
                    scale(grad_matrix, after, size)
                    for t in range(tokens - 1, -1, -1):
                        row, inner, share = (first + t) * heads + h, fill(0.0), fill(0.0)
                        inverse, time_step = ONE / grow[t], dt[row]
                        for j in range(0, value_dim, LANES):
                            grad = load(grad_v, t * value_dim + j) * fill(inverse)
                            value = load_bits(x, (first + t) * x_stride + h * value_dim + j, half)
                            inner = fma(grad, value, inner)
                            share = fma(load(grad_o, row * value_dim + j), load(o, row * value_dim + j),
                                        share)
                            store_bits(grad_x, row * value_dim + j, grad * fill(time_step), half)
                        grad_step = total(inner)
                        grad_g += total(share) - time_step * grad_step
                        if time_step * rate[h] * LOG2_E > FORGETS:
                            grad_g = ZERO
                        grad_dt[row] = grad_step - rate[h] * grad_g
                        grad_rate[h] -= time_step * grad_g
                for t in range(tokens):
                    row = ((first + t) * groups + group) * key_dim
                    for i in range(0, key_dim, LANES):
                        store_bits(grad_q, row + i, load(grad_queries, t * key_dim + i), half)
                        store_bits(grad_k, row + i, load(grad_keys, t * key_dim + i), half)


class _Ssd(torch.autograd.Function):
    """q, k and x in one dtype. Sizes of keys and values are multiples of 16."""

    @staticmethod
    def forward(ctx: Any, q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, groups, key_dim = q_BTGK.shape
        heads, value_dim = x_BTHV.shape[2:]
        ctx.sizes = batch, length, groups, heads, key_dim, value_dim
        dt_BTH, rate_H, final_BHKV = dt_BTH.contiguous(), rate_H.contiguous(), wide_copy(state_BHKV)
        o_BTHV = torch.empty(batch, length, heads, value_dim)
        chunks = -(-length // CHUNK) if any(ctx.needs_input_grad) else 0
        kept = torch.empty(batch, heads, chunks, key_dim, value_dim)
        room = torch.empty(CHUNK * (4 * key_dim + 2 * value_dim + 2))
        starts = torch.empty(CHUNK + 1, dtype=torch.int64)
        half = x_BTHV.dtype == torch.bfloat16
        _forward(*rows(q_BTGK), *rows(k_BTGK), *rows(x_BTHV), half, flat(dt_BTH), flat(rate_H),
                 flat(final_BHKV), flat(o_BTHV), flat(kept), flat(room), flat(starts), *ctx.sizes)
        ctx.save_for_backward(q_BTGK, k_BTGK, x_BTHV, dt_BTH, rate_H, kept, final_BHKV, o_BTHV)
        return o_BTHV, final_BHKV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        q_BTGK, k_BTGK, x_BTHV, dt_BTH, rate_H, kept, final_BHKV, o_BTHV = ctx.saved_tensors
        key_dim, value_dim = ctx.sizes[-2:]
        grad_o_BTHV, grad_state_BHKV = output_grads[0].contiguous(), wide_copy(output_grads[1])
        grad_q, grad_k, grad_x = (torch.empty(x.shape, dtype=x.dtype) for x in (q_BTGK, k_BTGK, x_BTHV))
        grad_dt, grad_rate = torch.empty(dt_BTH.shape), torch.zeros(rate_H.shape)
        room = torch.empty(CHUNK * (6 * key_dim + 5 * value_dim + 2) + 2 * key_dim * value_dim)
        starts = torch.empty(CHUNK + 1, dtype=torch.int64)
        half = x_BTHV.dtype == torch.bfloat16
        _backward(*rows(q_BTGK), *rows(k_BTGK), *rows(x_BTHV), half, flat(dt_BTH), flat(rate_H), flat(kept),
                  flat(final_BHKV), flat(o_BTHV), flat(grad_o_BTHV), flat(grad_state_BHKV), bits(grad_q),
                  bits(grad_k), bits(grad_x), flat(grad_dt), flat(grad_rate), flat(room), flat(starts),
                  *ctx.sizes)
        return grad_q, grad_k, grad_x, grad_dt, grad_rate, grad_state_BHKV


def ssd_scan(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.ssd.ssd_scan`: q, k and x in float32 or bfloat16, everything else in float32."""
    if not q_BTGK.dtype == k_BTGK.dtype == x_BTHV.dtype == torch.bfloat16:
        q_BTGK, k_BTGK, x_BTHV = (part.float() for part in (q_BTGK, k_BTGK, x_BTHV))
    key_dim, value_dim = state_BHKV.shape[-2:]
    if odd(state_BHKV):
        (q_BTGK, k_BTGK), x_BTHV, state_BHKV = filled((q_BTGK, k_BTGK), x_BTHV, state_BHKV)
    o, state = _Ssd.apply(q_BTGK, k_BTGK, x_BTHV, dt_BTH, rate_H, state_BHKV)
    return o[..., :value_dim], state[..., :key_dim, :value_dim]


def ssd_scan_step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.ssd.ssd_scan_step` without gradients; the state is written in place. By torch if sizes are
    odd."""
    if odd(state_BHKV):
        return by_torch(q_BGK, k_BGK, x_BHV, dt_BH, rate_H, state_BHKV)
    return linear_step(q_BGK, k_BGK, x_BHV, dt_BH, rate_H, state_BHKV)
