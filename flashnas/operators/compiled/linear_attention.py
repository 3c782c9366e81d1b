"""Recurrences whose state only decays and is added to, compiled: GLA, with a decay per key channel, and the
state-space dual of Mamba2, with one per head; in the signatures of recurrences/gla.py and recurrences/ssd.py.

Within a segment of tokens no decay is applied to the state. Queries (or outputs, where decays are the heads')
are multiplied by the decay since the segment's first token, keys (or values) divided by it. A segment ends
after CHUNK tokens, or before a divisor exceeds 2^LARGEST. Heads that share queries and keys share what is
packed of them.

The gradient of a log decay is the sum of q dq - k dk (or do o - v dv) over its own and all later tokens. The
sum starts anew at every chunk with the exact value, from the state that the forward pass kept there, and at
zero before a token whose decay is below 2^-FORGETS: what is left of the state is then less than the rounding
of the sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashnas.operators.compiled.decays import CHUNK, FORGETS, divide, scale, scale_VK, segments
from flashnas.operators.compiled.jit import (
    bits,
    filling,
    flat,
    odd,
    rows,
    variant,
    wide_copy,
)
from flashnas.operators.compiled.steps import linear_step
from flashnas.operators.compiled.tiles import (
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
    fill,
    fma,
    load,
    load_bits,
    store,
    store_bits,
    total,
    where_larger,
)
from flashnas.operators.recurrences.gla import gla_step as gla_step_by_torch
from flashnas.operators.recurrences.ssd import ssd_scan_step as ssd_step_by_torch

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@functools.cache
def _forward_kernel(channel: bool) -> Callable[..., None]:
    """kept [batch, heads, chunks, key, value]: receives the state before each chunk. `state` moves on."""
    @variant("channel" if channel else "head")
    def linear_forward(q, q_stride, k, k_stride, v, v_stride, half, g, rate, state, o, kept, room, starts,
                       sizes):
        batch, length, groups, heads, key_dim, value_dim = sizes
        size, chunks, repeats = key_dim * value_dim, (length + CHUNK - 1) // CHUNK, heads // groups
        a, c, w = CHUNK * key_dim, CHUNK * value_dim, CHUNK * (key_dim if channel else 1)
        queries, keys, packed, room = room[:a], room[a:2 * a], room[2 * a:4 * a], room[4 * a:]
        values, out, room = room[:c], room[c:2 * c], room[2 * c:]
        grow, begin, since = room[:w], room[w:2 * w], room[2 * w:]
        for b in range(batch):
            for group in range(groups):
                for n in range(chunks):
                    tokens, first = min(CHUNK, length - n * CHUNK), b * length + n * CHUNK
                    load_rows(q, first * q_stride + group * key_dim, q_stride, half, tokens, key_dim, queries)
                    load_rows(k, first * k_stride + group * key_dim, k_stride, half, tokens, key_dim, keys)
                    whole = False  # whether `packed` holds the whole chunk
                    for h in range(group * repeats, (group + 1) * repeats):
                        place, v_at = b * heads + h, first * v_stride + h * value_dim
                        matrix = state[place * size:(place + 1) * size]
                        if len(kept):
                            copy(matrix, 0, kept, (place * chunks + n) * size, size)
                        load_rows(v, v_at, v_stride, half, tokens, value_dim, values)
                        count = segments(channel, g, first * heads + h, heads, rate[h], tokens, key_dim,
                                         starts, begin, since, grow)
                        divide(channel, queries, keys, values, g, first * heads + h, heads, grow, tokens,
                               key_dim, value_dim)
                        clear(out, tokens * value_dim)
                        for s in range(count):
                            t, many = starts[s], starts[s + 1] - starts[s]
                            scale(channel, matrix, begin, s, key_dim, value_dim)
                            if count > 1 or not whole:
                                pack(queries, keys, t * key_dim, many, key_dim, packed)
                                whole = count == 1
                            run_tiles(packed, values, t * value_dim, out, t * value_dim, matrix, many,
                                      key_dim, value_dim, False)
                            if channel or s == count - 1:
                                scale(channel, matrix, grow, t + many - 1, key_dim, value_dim)
                        for t in range(tokens):
                            growth = fill(ONE if channel else grow[t])
                            for j in range(0, value_dim, LANES):
                                store(o, ((first + t) * heads + h) * value_dim + j,
                                      load(out, t * value_dim + j) * growth)
    return linear_forward


@functools.cache
def _backward_kernel(channel: bool) -> Callable[..., None]:
    """grad_state: of the final state; becomes that of the first. grad_rate: added to. State and gradient are
    needed with rows of values, too: state_VK, grad_VK."""
    @variant("channel" if channel else "head")
    def linear_backward(q, q_stride, k, k_stride, v, v_stride, half, g, rate, kept, final, o, grad_o,
                        grad_state, grad_q, grad_k, grad_v, grad_g, grad_rate, room, starts, sizes):
        batch, length, groups, heads, key_dim, value_dim = sizes
        size, chunks, repeats = key_dim * value_dim, (length + CHUNK - 1) // CHUNK, heads // groups
        a, c, w = CHUNK * key_dim, CHUNK * value_dim, CHUNK * (key_dim if channel else 1)
        queries, keys, grad_queries, grad_keys = room[:a], room[a:2 * a], room[2 * a:3 * a], room[3 * a:4 * a]
        packed_keys, room = room[4 * a:6 * a], room[6 * a:]
        values, grad_out, grad_values = room[:c], room[c:2 * c], room[2 * c:3 * c]
        packed_values, room = room[3 * c:5 * c], room[5 * c:]
        state_VK, grad_VK, room = room[:size], room[size:2 * size], room[2 * size:]
        grow, begin, since, later = room[:w], room[w:2 * w], room[2 * w:3 * w], room[3 * w:]
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
                        place, v_at = b * heads + h, first * v_stride + h * value_dim
                        before = (place * chunks + n) * size
                        matrix = grad_state[place * size:(place + 1) * size]
                        after, after_at = (final, place * size) if n == chunks - 1 else (kept, before + size)
                        grad_log = ZERO
                        if channel:
                            for i in range(key_dim):
                                later[i] = inner_product(matrix, i * value_dim, after,
                                                         after_at + i * value_dim, value_dim)
                        else:
                            grad_log = inner_product(matrix, 0, after, after_at, size)
                        transpose(kept, before, key_dim, value_dim, state_VK)
                        transpose(matrix, 0, key_dim, value_dim, grad_VK)
                        load_rows(v, v_at, v_stride, half, tokens, value_dim, values)
                        count = segments(channel, g, first * heads + h, heads, rate[h], tokens, key_dim,
                                         starts, begin, since, grow)
                        divide(channel, queries, keys, values, g, first * heads + h, heads, grow, tokens,
                               key_dim, value_dim)
                        for t in range(tokens):
                            growth = fill(ONE if channel else grow[t])
                            for j in range(0, value_dim, LANES):
                                grad = load(grad_o, ((first + t) * heads + h) * value_dim + j)
                                store(grad_out, t * value_dim + j, grad * growth)
                        clear(grad_values, tokens * value_dim)
                        for s in range(count):
                            t, many = starts[s], starts[s + 1] - starts[s]
                            scale_VK(channel, state_VK, begin, s, value_dim, key_dim)
                            pack(grad_out, values, t * value_dim, many, value_dim, packed_values)
                            run_tiles(packed_values, keys, t * key_dim, grad_queries, t * key_dim, state_VK,
                                      many, value_dim, key_dim, False)
                            if channel and s < count - 1:
                                scale_VK(channel, state_VK, grow, t + many - 1, value_dim, key_dim)
                        for s in range(count - 1, -1, -1):
                            t, many = starts[s], starts[s + 1] - starts[s]
                            if channel or s == count - 1:
                                scale(channel, matrix, grow, t + many - 1, key_dim, value_dim)
                                scale_VK(channel, grad_VK, grow, t + many - 1, value_dim, key_dim)
                            else:
                                scale(channel, matrix, begin, s + 1, key_dim, value_dim)
                                scale_VK(channel, grad_VK, begin, s + 1, value_dim, key_dim)
                            if count > 1 or not whole:
                                pack(keys, queries, t * key_dim, many, key_dim, packed_keys)
                                whole = count == 1
                            run_tiles(packed_keys, grad_out, t * value_dim, grad_values, t * value_dim,
                                      matrix, many, key_dim, value_dim, True)
                            pack(values, grad_out, t * value_dim, many, value_dim, packed_values)
                            run_tiles(packed_values, queries, t * key_dim, grad_keys, t * key_dim, grad_VK,
                                      many, value_dim, key_dim, True)
                            if channel or s == 0:
                                scale(channel, matrix, begin, s, key_dim, value_dim)
                            if channel and s:
                                scale_VK(channel, grad_VK, begin, s, value_dim, key_dim)
                        for t in range(tokens - 1, -1, -1):
                            row = (first + t) * heads + h
                            if channel:
                                for i in range(0, key_dim, LANES):
                                    here, growth = t * key_dim + i, load(grow, t * key_dim + i)
                                    grad_query, grad_key = load(grad_queries, here), load(grad_keys, here)
                                    share = load(queries, here) * grad_query - load(keys, here) * grad_key
                                    log_decay = load(g, row * key_dim + i) * fill(LOG2_E)
                                    store(later, i, where_larger(log_decay, fill(-FORGETS),
                                                                 load(later, i) + share, fill(0.0)))
                                    store(grad_g, row * key_dim + i, load(later, i))
                                    store_bits(grad_q, row * key_dim + i, grad_query * growth, half)
                                    store_bits(grad_k, row * key_dim + i, grad_key / growth, half)
                                for j in range(0, value_dim, LANES):
                                    grad = load(grad_values, t * value_dim + j)
                                    store_bits(grad_v, row * value_dim + j, grad, half)
                            else:
                                inner, share = fill(0.0), fill(0.0)
                                inverse, time_step = ONE / grow[t], g[row]
                                for j in range(0, value_dim, LANES):
                                    grad = load(grad_values, t * value_dim + j) * fill(inverse)
                                    inner = fma(grad, load_bits(v, v_at + t * v_stride + j, half), inner)
                                    share = fma(load(grad_o, row * value_dim + j),
                                                load(o, row * value_dim + j), share)
                                    store_bits(grad_v, row * value_dim + j, grad * fill(time_step), half)
                                grad_step = total(inner)
                                grad_log += total(share) - time_step * grad_step
                                if time_step * rate[h] * LOG2_E > FORGETS:
                                    grad_log = ZERO
                                grad_g[row] = grad_step - rate[h] * grad_log
                                grad_rate[h] -= time_step * grad_log
                    if not channel:
                        for t in range(tokens):
                            row = ((first + t) * groups + group) * key_dim
                            for i in range(0, key_dim, LANES):
                                store_bits(grad_q, row + i, load(grad_queries, t * key_dim + i), half)
                                store_bits(grad_k, row + i, load(grad_keys, t * key_dim + i), half)
    return linear_backward


class _LinearAttention(torch.autograd.Function):
    """q, k and v in one dtype; g by key channel, or by head if there are rates. Sizes of keys and values are
    multiples of 16."""

    @staticmethod
    def forward(ctx: Any, q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g: Tensor, rate_H: Tensor | None,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, groups, key_dim = q_BTGK.shape
        heads, value_dim = v_BTHV.shape[2:]
        ctx.sizes, ctx.channel = (batch, length, groups, heads, key_dim, value_dim), rate_H is None
        rate_H = torch.empty(heads) if rate_H is None else rate_H.contiguous()
        g, final_BHKV = g.contiguous(), wide_copy(state_BHKV)
        o_BTHV = torch.empty(batch, length, heads, value_dim)
        chunks = -(-length // CHUNK) if any(ctx.needs_input_grad) else 0
        kept = torch.empty(batch, heads, chunks, key_dim, value_dim)
        tensors = (*rows(q_BTGK), *rows(k_BTGK), *rows(v_BTHV), v_BTHV.dtype == torch.bfloat16, flat(g),
                   flat(rate_H))
        _forward_kernel(ctx.channel)(*tensors, flat(final_BHKV), flat(o_BTHV), flat(kept),
                                     *_scratch(ctx, 4, 2), ctx.sizes)
        ctx.save_for_backward(q_BTGK, k_BTGK, v_BTHV, g, rate_H, kept, final_BHKV, o_BTHV)
        return o_BTHV, final_BHKV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BTGK, k_BTGK, v_BTHV, g, rate_H, kept, final_BHKV, o_BTHV = ctx.saved_tensors
        grad_o_BTHV, grad_state_BHKV = output_grads[0].contiguous(), wide_copy(output_grads[1])
        grads = [torch.empty(x.shape, dtype=x.dtype) for x in (q_BTGK, k_BTGK, v_BTHV)]
        grad_g, grad_rate = torch.empty(g.shape), torch.zeros(rate_H.shape)
        tensors = (*rows(q_BTGK), *rows(k_BTGK), *rows(v_BTHV), v_BTHV.dtype == torch.bfloat16,
                   *map(flat, (g, rate_H, kept, final_BHKV, o_BTHV, grad_o_BTHV, grad_state_BHKV)))
        _backward_kernel(ctx.channel)(*tensors, *map(bits, grads), flat(grad_g), flat(grad_rate),
                                      *_scratch(ctx, 6, 5, 2), ctx.sizes)
        return *grads, grad_g, None if ctx.channel else grad_rate, grad_state_BHKV


def _scratch(ctx: Any, by_key: int, by_value: int, states: int = 0) -> tuple[Any, Any]:
    """Room for so many chunks of keys, of values and of states, for decays, and where segments start."""
    key_dim, value_dim = ctx.sizes[-2:]
    chunk = by_key * key_dim + by_value * value_dim + 3 * (key_dim if ctx.channel else 1)
    room = torch.empty(CHUNK * chunk + states * key_dim * value_dim + key_dim)
    return flat(room), flat(torch.empty(CHUNK + 1, dtype=torch.int64))


@filling
def _linear_attention(q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g: Tensor, rate_H: Tensor | None,
                      state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    if not q_BTGK.dtype == k_BTGK.dtype == v_BTHV.dtype == torch.bfloat16:
        q_BTGK, k_BTGK, v_BTHV = (part.float() for part in (q_BTGK, k_BTGK, v_BTHV))
    o_BTHV, final_BHKV = _LinearAttention.apply(q_BTGK, k_BTGK, v_BTHV, g, rate_H, state_BHKV)
    return o_BTHV, final_BHKV


def gla(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
        state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.gla.gla_chunked`: q, k and v in float32 or bfloat16, everything else in float32."""
    return _linear_attention(q_BTHK, k_BTHK, v_BTHV, g_BTHK, None, state_BHKV)


ssd_scan = _linear_attention  # `recurrences.ssd.ssd_scan`, in the same dtypes


def gla_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.gla.gla_step` without gradients; the state is written in place. By torch if sizes are odd.
    """
    if odd(state_BHKV):
        return gla_step_by_torch(q_BHK.float(), k_BHK.float(), v_BHV.float(), g_BHK, state_BHKV)
    return linear_step(q_BHK, k_BHK, v_BHV, g_BHK, None, state_BHKV)


def ssd_scan_step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.ssd.ssd_scan_step` without gradients; the state is written in place. By torch if sizes are
    odd."""
    step = ssd_step_by_torch if odd(state_BHKV) else linear_step
    return step(q_BGK, k_BGK, x_BHV, dt_BH, rate_H, state_BHKV)
