"""The recurrence with a diagonal plus low-rank transition, token by token, as RWKV7 has it; recurrences/dplr.py has the
plain form.

    S' = diag(exp(g)) S;  p = S'^T a;  S = S' + b p^T + k v^T;  o = S^T q

The way is that of delta_rule.py. With F the gradient of S that comes from later tokens and G = F + q grad_o^T:
    grad_p = G^T b;  grad_v = G^T k;  F <- exp(g) (G + a grad_p^T)
    grad_q = S grad_o;  grad_a = S' grad_p;  grad_b = G p;  grad_k = G v
    grad_g_t = grad_g_{t + 1} + q grad_q + a grad_a - b grad_b - k grad_k
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import torch
from torch import Tensor

from flashnas.operators.compiled.jit import (
    at,
    differentiable,
    filled,
    lanes_of,
    odd,
    over_batches,
    ready,
    variant,
    view,
)
from flashnas.operators.compiled.simd import (
    add_product,
    clear,
    dot,
    exponential,
    fill,
    fold,
    load,
    multiply_add,
    put,
    repeat,
    scalar,
    spread,
    store,
    tile,
    total,
    transpose,
)
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_reference
from flashnas.operators.recurrences.dplr import dplr_step as step_by_torch

CHUNK = 16  # tokens; the kernels are written for lanes of as many


@functools.cache
def _forward(lanes: int) -> Callable[..., None]:
    """The kernel for blocks of `lanes` value channels; starts and state as in delta_rule.py, read: p."""
    rows = 64 // lanes  # of the state at once

    @variant(f"{lanes}")
    def dplr_forward(q, k, v, a, b, g, o, read, state, starts, room, sizes):
        batch, tokens, heads, key_dim, value_dim = sizes
        matrix, decays = room, room + 4 * key_dim * lanes
        chunks = (tokens + 15) // 16
        for n in range(batch):
            for h in range(heads):
                for column in range(0, value_dim, lanes):
                    whole = state + 4 * ((n * heads + h) * key_dim * value_dim + column)
                    start = starts + 4 * ((n * heads + h) * chunks * value_dim + column) * key_dim
                    for i in range(key_dim):
                        store(matrix, i * lanes, load(whole, i * value_dim, lanes))
                    key, other, value, seen = at(k, n, 0, h), at(b, n, 0, h), fill(0.0, lanes), fill(0.0, lanes)
                    for t in range(tokens):
                        query, reader = at(q, n, t, h), at(a, n, t, h)
                        seen_by_query, seen_next = fill(0.0, 64), fill(0.0, 64)
                        value_rows, seen_rows = tile(value, rows), tile(seen, rows)
                        keep = starts != 0 and t % 16 == 0
                        for i in range(0, key_dim, 16):
                            store(decays, i, exponential(load(at(g, n, t, h), i, 16)))
                        for i in range(0, key_dim, rows):
                            row = load(matrix, i * lanes, 64)
                            row = multiply_add(spread(key, i, 1, rows, lanes), value_rows, row)
                            row = multiply_add(spread(other, i, 1, rows, lanes), seen_rows, row)
                            if keep:
                                store(start, i * lanes, row)
                            row = row * spread(decays, i, 1, rows, lanes)
                            store(matrix, i * lanes, row)
                            seen_next = multiply_add(spread(reader, i, 1, rows, lanes), row, seen_next)
                            seen_by_query = multiply_add(spread(query, i, 1, rows, lanes), row, seen_by_query)
                        if keep:
                            start += 4 * key_dim * value_dim
                        key, other, seen = at(k, n, t, h), at(b, n, t, h), fold(seen_next, rows)
                        value = load(at(v, n, t, h), column, lanes)
                        store(at(read, n, t, h), column, seen)
                        out = multiply_add(fill(dot(query, other, key_dim), lanes), seen, fold(seen_by_query, rows))
                        store(at(o, n, t, h), column, multiply_add(fill(dot(query, key, key_dim), lanes), value, out))
                    for i in range(key_dim):
                        row = multiply_add(repeat(key, i, lanes), value, load(matrix, i * lanes, lanes))
                        row = multiply_add(repeat(other, i, lanes), seen, row)
                        store(whole, i * value_dim, row)
    return dplr_forward


@functools.cache
def _backward(lanes: int) -> Callable[..., None]:
    """The kernel of the gradients; names and arguments as in delta_rule.py."""
    rows = 64 // lanes

    @variant(f"{lanes}")
    def dplr_backward(q, k, v, a, b, g, read, grad_o, starts, final, grad_state, grad_q, grad_k, grad_v, grad_a,
                      grad_b, grad_g, room, sizes):
        batch, tokens, heads, key_dim, value_dim = sizes
        chunks, keys_size, values_size = (tokens + 15) // 16, 64 * key_dim, 64 * value_dim  # in bytes
        flow = room  # F, [V / lanes, K, lanes]
        of_o_CV = flow + 4 * key_dim * value_dim
        value_CV, read_CV, of_read_CV = of_o_CV + values_size, of_o_CV + 2 * values_size, of_o_CV + 3 * values_size
        of_o_VC, value_VC = of_o_CV + 4 * values_size, of_o_CV + 5 * values_size
        read_VC, of_read_VC = of_o_CV + 6 * values_size, of_o_CV + 7 * values_size
        q_KC = of_o_CV + 8 * values_size  # first the gradients, then copies of the inputs
        a_KC, b_KC, k_KC, q_CK = q_KC + keys_size, q_KC + 2 * keys_size, q_KC + 3 * keys_size, q_KC + 4 * keys_size
        a_CK, b_CK, k_CK, query_CK = q_CK + keys_size, q_CK + 2 * keys_size, q_CK + 3 * keys_size, q_CK + 4 * keys_size
        reader_CK, other_CK, key_CK = query_CK + keys_size, query_CK + 2 * keys_size, query_CK + 3 * keys_size
        decay_CK = query_CK + 4 * keys_size
        tables = decay_CK + keys_size  # [8, s, t]: grad_o . v, grad_o . p, grad_p . v, grad_p . p; transposed ones
        o_value, o_read, read_value, read_read = tables, tables + 1024, tables + 2048, tables + 3072
        ones = tables + 8192
        seen_key, seen_other = ones + 1024, ones + 1024 + 4 * value_dim
        along = ones + 1024 + 8 * value_dim
        clear(ones, 256)
        for s in range(16):
            store(ones, 17 * s, fill(1.0, 1))
        for n in range(batch):
            for h in range(heads):
                whole = grad_state + 4 * (n * heads + h) * key_dim * value_dim
                after = final + 4 * (n * heads + h) * key_dim * value_dim
                clear(along, key_dim)
                for column in range(0, value_dim, lanes):
                    block, key, other = flow + 4 * column * key_dim, at(k, n, tokens - 1, h), at(b, n, tokens - 1, h)
                    seen_by_key, seen_by_other = fill(0.0, lanes), fill(0.0, lanes)
                    for i in range(key_dim):
                        row = load(whole, i * value_dim + column, lanes)
                        store(block, i * lanes, row)
                        seen_by_key = multiply_add(repeat(key, i, lanes), row, seen_by_key)
                        seen_by_other = multiply_add(repeat(other, i, lanes), row, seen_by_other)
                        moved = total(row * load(after, i * value_dim + column, lanes))
                        put(along, i, scalar(along, i) + moved)
                    store(seen_key, column, seen_by_key)
                    store(seen_other, column, seen_by_other)
                for m in range(chunks - 1, -1, -1):
                    first, length = 16 * m, min(16, tokens - 16 * m)
                    start = starts + 4 * ((n * heads + h) * chunks + m) * key_dim * value_dim
                    clear(of_o_CV, 4 * 16 * value_dim)
                    for c in range(length):
                        t = first + c
                        for column in range(0, value_dim, lanes):
                            place = 16 * column + lanes * c
                            store(of_o_CV, place, load(at(grad_o, n, t, h), column, lanes))
                            store(value_CV, place, load(at(v, n, t, h), column, lanes))
                            store(read_CV, place, load(at(read, n, t, h), column, lanes))
                        for i in range(0, key_dim, 16):
                            place = c * key_dim + i
                            store(query_CK, place, load(at(q, n, t, h), i, 16))
                            store(reader_CK, place, load(at(a, n, t, h), i, 16))
                            store(other_CK, place, load(at(b, n, t, h), i, 16))
                            store(key_CK, place, load(at(k, n, t, h), i, 16))
                            store(decay_CK, place, exponential(load(at(g, n, t, h), i, 16)))
                    clear(q_KC, 4 * 16 * key_dim)
                    clear(o_value, 4 * 256)
                    for column in range(0, value_dim, lanes):
                        block, at_CV, at_VC = flow + 4 * column * key_dim, 64 * column, 64 * column
                        for j in range(0, lanes, 16):
                            transpose(of_o_CV + at_CV + 4 * j, lanes, of_o_VC + at_VC + 64 * j, 16)
                            transpose(value_CV + at_CV + 4 * j, lanes, value_VC + at_VC + 64 * j, 16)
                            transpose(read_CV + at_CV + 4 * j, lanes, read_VC + at_VC + 64 * j, 16)
                        add_product(lanes, block, read_VC + at_VC, b_KC, key_dim)
                        add_product(lanes, block, value_VC + at_VC, k_KC, key_dim)
                        seen_by_key, seen_by_other = load(seen_key, column, lanes), load(seen_other, column, lanes)
                        for c in range(length - 1, -1, -1):
                            t = first + c
                            query, reader = query_CK + 4 * c * key_dim, reader_CK + 4 * c * key_dim
                            alike_key = fill(dot(key_CK + 4 * c * key_dim, query, key_dim), lanes)
                            alike_other = fill(dot(other_CK + 4 * c * key_dim, query, key_dim), lanes)
                            of_o = load(of_o_CV + at_CV, c * lanes, lanes)
                            store(at(grad_v, n, t, h), column, multiply_add(alike_key, of_o, seen_by_key))
                            of_read = multiply_add(alike_other, of_o, seen_by_other)
                            store(of_read_CV + at_CV, c * lanes, of_read)
                            next_key, next_other = at(k, n, max(t - 1, 0), h), at(b, n, max(t - 1, 0), h)
                            key_rows, other_rows = fill(0.0, 64), fill(0.0, 64)
                            of_o_rows, of_read_rows = tile(of_o, rows), tile(of_read, rows)
                            for i in range(0, key_dim, rows):
                                row = load(block, i * lanes, 64)
                                row = multiply_add(spread(query, i, 1, rows, lanes), of_o_rows, row)
                                row = multiply_add(spread(reader, i, 1, rows, lanes), of_read_rows, row)
                                row = row * spread(decay_CK, c * key_dim + i, 1, rows, lanes)
                                store(block, i * lanes, row)
                                key_rows = multiply_add(spread(next_key, i, 1, rows, lanes), row, key_rows)
                                other_rows = multiply_add(spread(next_other, i, 1, rows, lanes), row, other_rows)
                            seen_by_key, seen_by_other = fold(key_rows, rows), fold(other_rows, rows)
                        store(seen_key, column, seen_by_key)
                        store(seen_other, column, seen_by_other)
                        for j in range(0, lanes, 16):
                            transpose(of_read_CV + at_CV + 4 * j, lanes, of_read_VC + at_VC + 64 * j, 16)
                        add_product(lanes, start + 4 * column * key_dim, of_o_VC + at_VC, q_KC, key_dim)
                        add_product(lanes, start + 4 * column * key_dim, of_read_VC + at_VC, a_KC, key_dim)
                        add_product(lanes, of_o_CV + at_CV, value_VC + at_VC, o_value, 16)
                        add_product(lanes, of_o_CV + at_CV, read_VC + at_VC, o_read, 16)
                        add_product(lanes, of_read_CV + at_CV, value_VC + at_VC, read_value, 16)
                        add_product(lanes, of_read_CV + at_CV, read_VC + at_VC, read_read, 16)
                    for place in range(tables, tables + 4096, 1024):
                        transpose(place, 16, place + 4096, 16)
                    _sum(query_CK, reader_CK, other_CK, key_CK, decay_CK, tables, ones, q_KC, a_KC, b_KC, k_KC,
                         length, key_dim)
                    for i in range(0, key_dim, 16):
                        transpose(q_KC + 64 * i, 16, q_CK + 4 * i, key_dim)
                        transpose(a_KC + 64 * i, 16, a_CK + 4 * i, key_dim)
                        transpose(b_KC + 64 * i, 16, b_CK + 4 * i, key_dim)
                        transpose(k_KC + 64 * i, 16, k_CK + 4 * i, key_dim)
                    for c in range(length - 1, -1, -1):
                        t = first + c
                        for i in range(0, key_dim, 16):
                            place = c * key_dim + i
                            of_q, of_a, of_b, of_k = (load(q_CK, place, 16), load(a_CK, place, 16),
                                                      load(b_CK, place, 16), load(k_CK, place, 16))
                            store(at(grad_q, n, t, h), i, of_q)
                            store(at(grad_a, n, t, h), i, of_a)
                            store(at(grad_b, n, t, h), i, of_b)
                            store(at(grad_k, n, t, h), i, of_k)
                            moved = load(along, i, 16) + load(query_CK, place, 16) * of_q
                            moved = moved + load(reader_CK, place, 16) * of_a
                            moved = moved - load(other_CK, place, 16) * of_b - load(key_CK, place, 16) * of_k
                            store(along, i, moved)
                            store(at(grad_g, n, t, h), i, moved)
                    for i in range(key_dim):  # F . S between the chunks
                        part = fill(0.0, lanes)
                        for column in range(0, value_dim, lanes):
                            place = column * key_dim + i * lanes
                            part = multiply_add(load(flow, place, lanes), load(start, place, lanes), part)
                        put(along, i, total(part))
                for column in range(0, value_dim, lanes):
                    for i in range(key_dim):
                        store(whole, i * value_dim + column, load(flow, column * key_dim + i * lanes, lanes))
    return dplr_backward


@numba.njit
def _sum(query_CK, reader_CK, other_CK, key_CK, decay_CK, tables, ones, q_KC, a_KC, b_KC, k_KC, length,
         key_dim):
    """Adds what the tokens of the chunk give each other, where S0 and F gave theirs. Lanes are tokens t."""
    for i in range(0, key_dim, 4):
        of_b, of_k, decay = fill(0.0, 64), fill(0.0, 64), fill(0.0, 64)
        for s in range(length):  # by the decays from t to s >= t
            query = spread(query_CK, s * key_dim + i, 1, 4, 16)
            between = decay * spread(decay_CK, s * key_dim + i, 1, 4, 16)
            decay = between + tile(load(ones, 16 * s, 16), 4)
            query, reader = query * decay, between * spread(reader_CK, s * key_dim + i, 1, 4, 16)
            of_k = multiply_add(query, tile(load(tables, 16 * s, 16), 4), of_k)
            of_b = multiply_add(query, tile(load(tables, 256 + 16 * s, 16), 4), of_b)
            of_k = multiply_add(reader, tile(load(tables, 512 + 16 * s, 16), 4), of_k)
            of_b = multiply_add(reader, tile(load(tables, 768 + 16 * s, 16), 4), of_b)
        store(b_KC, 16 * i, multiply_add(decay, load(b_KC, 16 * i, 64), of_b))
        store(k_KC, 16 * i, multiply_add(decay, load(k_KC, 16 * i, 64), of_k))
        of_q, of_a, decay = fill(0.0, 64), fill(0.0, 64), fill(0.0, 64)
        for s in range(length - 1, -1, -1):  # by the decays from s to t >= s
            key, other = spread(key_CK, s * key_dim + i, 1, 4, 16), spread(other_CK, s * key_dim + i, 1, 4, 16)
            value_read, read_read = load(tables, 1536 + 16 * s, 16), load(tables, 1792 + 16 * s, 16)
            mixed = multiply_add(other, tile(read_read, 4), key * tile(value_read, 4))
            of_a = multiply_add(decay, mixed, of_a)
            decay = decay + tile(load(ones, 16 * s, 16), 4)
            value_o, read_o = load(tables, 1024 + 16 * s, 16), load(tables, 1280 + 16 * s, 16)
            mixed = multiply_add(other, tile(read_o, 4), key * tile(value_o, 4))
            of_q = multiply_add(decay, mixed, of_q)
            decay = decay * spread(decay_CK, s * key_dim + i, 1, 4, 16)
        store(q_KC, 16 * i, multiply_add(decay, load(q_KC, 16 * i, 64), of_q))
        store(a_KC, 16 * i, multiply_add(decay, load(a_KC, 16 * i, 64), of_a))


class _Dplr(torch.autograd.Function):
    """All float32, with neighbouring entries in the last dimension."""

    @staticmethod
    def forward(ctx: Any, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, a_BTHK: Tensor, b_BTHK: Tensor,
                g_BTHK: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        inputs = q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, g_BTHK
        ctx.sizes = batch, tokens, heads, key_dim, value_dim = *q_BTHK.shape, v_BTHV.shape[-1]
        o_BTHV, read_BTHV = torch.empty(2, batch, tokens, heads, value_dim).unbind()
        starts = torch.empty(batch, heads, -(-tokens // CHUNK), key_dim, value_dim)
        final_BHKV = _run(inputs, state_BHKV, o_BTHV, read_BTHV, starts)
        ctx.save_for_backward(*inputs, state_BHKV, read_BTHV, starts, final_BHKV)
        return o_BTHV, final_BHKV

    @staticmethod
    def backward(ctx: Any, grad_o_BTHV: Tensor, grad_final_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, state_BHKV, read_BTHV, starts, final_BHKV = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *differentiable(dplr_reference, (*inputs, state_BHKV), (grad_o_BTHV, grad_final_BHKV)),
        key_dim, value_dim = ctx.sizes[3:]
        grad_o_BTHV, grads = ready(grad_o_BTHV), [torch.empty(x.shape) for x in inputs]
        grad_state_BHKV = grad_final_BHKV.contiguous().clone()
        kernel, tensors = _backward(lanes_of(value_dim)), (*inputs, read_BTHV, grad_o_BTHV)

        def run(part: slice) -> None:
            room = torch.empty(key_dim * value_dim + 130 * value_dim + 209 * key_dim + 9 * 256)
            kernel(*(view(x[part]) for x in tensors), starts[part].data_ptr(), final_BHKV[part].data_ptr(),
                   grad_state_BHKV[part].data_ptr(), *(view(x[part]) for x in grads), room.data_ptr(),
                   (part.stop - part.start, *ctx.sizes[1:]))

        over_batches(ctx.sizes[0], run)
        return *grads, grad_state_BHKV


def _run(inputs: tuple[Tensor, ...], state_BHKV: Tensor, o: Tensor, read: Tensor, starts: Tensor | None,
         inplace: bool = False) -> Tensor:
    """Fills o, read and starts; returns the final state."""
    key_dim, value_dim = state_BHKV.shape[2:]
    final_BHKV = state_BHKV.contiguous() if inplace else state_BHKV.clone(memory_format=torch.contiguous_format)
    lanes, (batch, *sizes) = lanes_of(value_dim), inputs[0].shape
    kernel, tensors = _forward(lanes), (*inputs, o, read)

    def run(part: slice) -> None:
        room = torch.empty(key_dim * (lanes + 1))
        kernel(*(view(x[part]) for x in tensors), final_BHKV[part].data_ptr(),
               0 if starts is None else starts[part].data_ptr(), room.data_ptr(),
               (part.stop - part.start, *sizes, value_dim))

    over_batches(batch, run)
    return final_BHKV


def dplr(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, a_BTHK: Tensor, b_BTHK: Tensor | None, g_BTHK: Tensor,
         state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_chunked`, by itself where there is no b: (o_BTHV, final state)."""
    if b_BTHK is None:
        return dplr_chunked(q_BTHK, k_BTHK, v_BTHV, a_BTHK, None, g_BTHK, state_BHKV)
    if odd(state_BHKV):
        key_dim, value_dim = state_BHKV.shape[2:]
        by_key, v_BTHV, state_BHKV = filled((q_BTHK, k_BTHK, a_BTHK, b_BTHK, g_BTHK), v_BTHV, state_BHKV)
        q_BTHK, k_BTHK, a_BTHK, b_BTHK, g_BTHK = by_key
        o_BTHV, final_BHKV = dplr(q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, g_BTHK, state_BHKV)
        return o_BTHV[..., :value_dim], final_BHKV[:, :, :key_dim, :value_dim]
    inputs = tuple(ready(x) for x in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, g_BTHK))
    state_BHKV = state_BHKV.float()
    if not q_BTHK.shape[1]:
        return inputs[2], state_BHKV
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, state_BHKV)):
        o_BTHV, final_BHKV = _Dplr.apply(*inputs, state_BHKV)
        return o_BTHV, final_BHKV
    o_BTHV = torch.empty(v_BTHV.shape)
    return o_BTHV, _run(inputs, state_BHKV, o_BTHV, torch.empty(v_BTHV.shape), None)


def dplr_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, a_BHK: Tensor, b_BHK: Tensor, g_BHK: Tensor,
              state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_step` with b and without gradients; the state is written in place. By torch if sizes are odd."""
    if odd(state_BHKV):
        return step_by_torch(*(x.float() for x in (q_BHK, k_BHK, v_BHV, a_BHK, b_BHK, g_BHK, state_BHKV)))
    inputs = tuple(ready(x).unsqueeze(1) for x in (q_BHK, k_BHK, v_BHV, a_BHK, b_BHK, g_BHK))
    o_BTHV, read = torch.empty(2, *inputs[2].shape).unbind()
    final_BHKV = _run(inputs, state_BHKV.float(), o_BTHV, read, None, inplace=True)
    return o_BTHV.squeeze(1), final_BHKV
