"""The delta rule, plain, gated by head or by key channel, token by token; recurrences/delta_rule.py has plain forms.

    S' = exp(g) S;  e = v - S'^T k;  S = S' + k (beta e)^T;  o = S^T q

Forward, one pass over the state writes token t and reads for token t + 1: S'^T k and S'^T q. The value channels are
independent of each other; a block of them at a time, the state stays in the first-level cache.

Backward, with F the gradient of S that comes from later tokens and d = beta e:
    grad_d = F^T k + (q . k) grad_o;  grad_e = beta grad_d;  F <- exp(g) (F + q grad_o^T - k grad_e^T)
is a pass of the same kind over F. What is left are products, for 16 tokens at once, of the state S0 before them, which
the forward pass kept, and of F after them:
    grad_q = S grad_o;  x = (F + q grad_o^T) d;  y = S' grad_e;  grad_k = x - y;  grad_v = grad_e
    S_t = A_t S0 + sum_{s <= t} A_t / A_s k_s d_s^T, with A_t the product of the decays up to t, and F_t alike
    grad_g_t = grad_g_{t + 1} + q grad_q - k (x + y), from grad_g = F . S after the 16 tokens
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
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
from flashnas.operators.recurrences.delta_rule import delta_rule_reference
from flashnas.operators.recurrences.delta_rule import delta_rule_step as step_by_torch
from flashnas.operators.recurrences.dplr import dplr_reference
from flashnas.operators.recurrences.dplr import kda_step as kda_step_by_torch

CHUNK = 16  # tokens; the kernels are written for lanes of as many


@functools.cache
def _forward(lanes: int, channel: bool) -> Callable[..., None]:
    """The kernel for blocks of `lanes` value channels, with a decay per key channel or per head.

    starts: where the states before each chunk go, [B, H, chunks, V / lanes, K, lanes], or 0. state: [B, H, K, V],
    replaced.
    """
    rows = 64 // lanes  # of the state at once

    @variant(f"{lanes}_{'channel' if channel else 'head'}")
    def delta_rule_forward(q, k, v, beta, g, o, error, state, starts, room, sizes):
        batch, tokens, heads, key_dim, value_dim = sizes
        matrix, decays = room, room + 4 * key_dim * lanes
        chunks = (tokens + 15) // 16
        for b in range(batch):
            for h in range(heads):
                for column in range(0, value_dim, lanes):
                    whole = state + 4 * ((b * heads + h) * key_dim * value_dim + column)
                    start = starts + 4 * ((b * heads + h) * chunks * value_dim + column) * key_dim
                    for i in range(key_dim):
                        store(matrix, i * lanes, load(whole, i * value_dim, lanes))
                    key, write = at(k, b, 0, h), fill(0.0, lanes)
                    for t in range(tokens):
                        next_key, query = at(k, b, t, h), at(q, b, t, h)
                        seen_by_key, seen_by_query = fill(0.0, 64), fill(0.0, 64)
                        keep = starts != 0 and t % 16 == 0
                        if channel:
                            for i in range(0, key_dim, 16):
                                store(decays, i, exponential(load(at(g, b, t, h), i, 16)))
                        else:
                            decay = fill(np.exp(scalar(at(g, b, t, h), 0)), 64)
                        write_rows = tile(write, rows)
                        for i in range(0, key_dim, rows):
                            row = load(matrix, i * lanes, 64)
                            row = multiply_add(spread(key, i, 1, rows, lanes), write_rows, row)
                            if keep:
                                store(start, i * lanes, row)
                            row = row * spread(decays, i, 1, rows, lanes) if channel else row * decay
                            store(matrix, i * lanes, row)
                            seen_by_key = multiply_add(spread(next_key, i, 1, rows, lanes), row, seen_by_key)
                            seen_by_query = multiply_add(spread(query, i, 1, rows, lanes), row, seen_by_query)
                        if keep:
                            start += 4 * key_dim * value_dim
                        wrong = load(at(v, b, t, h), column, lanes) - fold(seen_by_key, rows)
                        key, write = next_key, repeat(at(beta, b, t, h), 0, lanes) * wrong
                        store(at(error, b, t, h), column, wrong)
                        alike = fill(dot(query, key, key_dim), lanes)
                        store(at(o, b, t, h), column, multiply_add(alike, write, fold(seen_by_query, rows)))
                    for i in range(key_dim):
                        row = multiply_add(repeat(key, i, lanes), write, load(matrix, i * lanes, lanes))
                        store(whole, i * value_dim, row)
    return delta_rule_forward


@functools.cache
def _backward(lanes: int, channel: bool) -> Callable[..., None]:
    """The kernel of the gradients. grad_state: of the final state [B, H, K, V], replaced by that of the first one.

    In the names of local arrays C is a chunk, the two last letters are the dimensions; on_* are [s, t].
    """
    rows = 64 // lanes

    @variant(f"{lanes}_{'channel' if channel else 'head'}")
    def delta_rule_backward(q, k, beta, g, error, grad_o, starts, final, grad_state, grad_q, grad_k, grad_v, grad_beta,
                            grad_g, room, sizes):
        batch, tokens, heads, key_dim, value_dim = sizes
        chunks, keys_size, values_size = (tokens + 15) // 16, 64 * key_dim, 64 * value_dim  # in bytes
        flow = room  # F, [V / lanes, K, lanes]
        of_o_CV = flow + 4 * key_dim * value_dim
        write_CV, of_error_CV = of_o_CV + values_size, of_o_CV + 2 * values_size
        of_o_VC, write_VC, of_error_VC = (of_o_CV + 3 * values_size, of_o_CV + 4 * values_size,
                                          of_o_CV + 5 * values_size)
        q_KC = of_o_CV + 6 * values_size
        x_KC, y_KC, q_CK = q_KC + keys_size, q_KC + 2 * keys_size, q_KC + 3 * keys_size
        x_CK, y_CK, key_CK = q_CK + keys_size, q_CK + 2 * keys_size, q_CK + 3 * keys_size
        query_CK, decay_CK = key_CK + keys_size, key_CK + 2 * keys_size
        on_q = decay_CK + keys_size
        on_x, on_x_key, on_y, ones = on_q + 1024, on_q + 2048, on_q + 3072, on_q + 4096
        seen, along, of_beta = on_q + 5120, on_q + 5120 + 4 * value_dim, on_q + 5120 + 4 * (value_dim + key_dim)
        clear(ones, 256)
        for s in range(16):
            put(ones, 17 * s, np.float32(1.0))
        for b in range(batch):
            for h in range(heads):
                whole = grad_state + 4 * (b * heads + h) * key_dim * value_dim
                after = final + 4 * (b * heads + h) * key_dim * value_dim
                clear(along, key_dim)
                for column in range(0, value_dim, lanes):
                    block, key = flow + 4 * column * key_dim, at(k, b, tokens - 1, h)
                    seen_by_key = fill(0.0, lanes)
                    for i in range(key_dim):
                        row = load(whole, i * value_dim + column, lanes)
                        store(block, i * lanes, row)
                        seen_by_key = multiply_add(repeat(key, i, lanes), row, seen_by_key)
                        moved = total(row * load(after, i * value_dim + column, lanes))
                        put(along, i, scalar(along, i) + moved)
                    store(seen, column, seen_by_key)
                for n in range(chunks - 1, -1, -1):
                    first, length = 16 * n, min(16, tokens - 16 * n)
                    start = starts + 4 * ((b * heads + h) * chunks + n) * key_dim * value_dim
                    clear(of_beta, 16)
                    clear(of_o_CV, 3 * 16 * value_dim)
                    for c in range(length):
                        t = first + c
                        rate = repeat(at(beta, b, t, h), 0, lanes)
                        for column in range(0, value_dim, lanes):
                            place = 16 * column + lanes * c
                            store(of_o_CV, place, load(at(grad_o, b, t, h), column, lanes))
                            store(write_CV, place, rate * load(at(error, b, t, h), column, lanes))
                        for i in range(0, key_dim, 16):
                            store(key_CK, c * key_dim + i, load(at(k, b, t, h), i, 16))
                            store(query_CK, c * key_dim + i, load(at(q, b, t, h), i, 16))
                            if channel:
                                store(decay_CK, c * key_dim + i, exponential(load(at(g, b, t, h), i, 16)))
                        if not channel:
                            put(decay_CK, c, np.exp(scalar(at(g, b, t, h), 0)))
                    clear(q_KC, 3 * 16 * key_dim)
                    clear(on_x, 2 * 256)
                    for column in range(0, value_dim, lanes):
                        block, block_CV, block_VC = flow + 4 * column * key_dim, 64 * column, 64 * column
                        for j in range(0, lanes, 16):
                            transpose(of_o_CV + block_CV + 4 * j, lanes, of_o_VC + block_VC + 64 * j, 16)
                            transpose(write_CV + block_CV + 4 * j, lanes, write_VC + block_VC + 64 * j, 16)
                        add_product(lanes, block, write_VC + block_VC, x_KC, key_dim)
                        seen_by_key = load(seen, column, lanes)
                        for c in range(length - 1, -1, -1):
                            t = first + c
                            key, query = key_CK + 4 * c * key_dim, query_CK + 4 * c * key_dim
                            of_o = load(of_o_CV + block_CV, c * lanes, lanes)
                            of_write = multiply_add(fill(dot(key, query, key_dim), lanes), of_o, seen_by_key)
                            wrong = load(at(error, b, t, h), column, lanes)
                            put(of_beta, c, scalar(of_beta, c) + total(of_write * wrong))
                            of_error = repeat(at(beta, b, t, h), 0, lanes) * of_write
                            store(at(grad_v, b, t, h), column, of_error)
                            store(of_error_CV + block_CV, c * lanes, of_error)
                            next_key, seen_rows = at(k, b, max(t - 1, 0), h), fill(0.0, 64)
                            decay = repeat(decay_CK, c, 64)
                            of_o_rows, of_error_rows = tile(of_o, rows), tile(of_error, rows)
                            if not channel:
                                of_o_rows, of_error_rows = decay * of_o_rows, decay * of_error_rows
                            for i in range(0, key_dim, rows):
                                row = load(block, i * lanes, 64)
                                if not channel:
                                    row = decay * row
                                row = multiply_add(spread(query, i, 1, rows, lanes), of_o_rows, row)
                                row = row - spread(key, i, 1, rows, lanes) * of_error_rows
                                if channel:
                                    row = row * spread(decay_CK, c * key_dim + i, 1, rows, lanes)
                                store(block, i * lanes, row)
                                seen_rows = multiply_add(spread(next_key, i, 1, rows, lanes), row, seen_rows)
                            seen_by_key = fold(seen_rows, rows)
                        store(seen, column, seen_by_key)
                        for j in range(0, lanes, 16):
                            transpose(of_error_CV + block_CV + 4 * j, lanes, of_error_VC + block_VC + 64 * j, 16)
                        add_product(lanes, start + 4 * column * key_dim, of_o_VC + block_VC, q_KC, key_dim)
                        add_product(lanes, start + 4 * column * key_dim, of_error_VC + block_VC, y_KC, key_dim)
                        add_product(lanes, of_o_CV + block_CV, write_VC + block_VC, on_x, 16)
                        add_product(lanes, of_error_CV + block_CV, write_VC + block_VC, on_x_key, 16)
                    transpose(on_x, 16, on_q, 16)
                    transpose(on_x_key, 16, on_y, 16)
                    if channel:
                        _sum_by_channel(key_CK, query_CK, decay_CK, on_q, on_x, on_x_key, on_y, ones, q_KC, x_KC, y_KC,
                                        length, key_dim)
                    else:
                        _sum_by_head(key_CK, query_CK, decay_CK, on_q, on_x, on_x_key, on_y, ones, q_KC, x_KC, y_KC,
                                     length, key_dim)
                    for i in range(0, key_dim, 16):
                        transpose(q_KC + 64 * i, 16, q_CK + 4 * i, key_dim)
                        transpose(x_KC + 64 * i, 16, x_CK + 4 * i, key_dim)
                        transpose(y_KC + 64 * i, 16, y_CK + 4 * i, key_dim)
                    of_g = np.float32(0.0)
                    if not channel:
                        for i in range(key_dim):
                            of_g += scalar(along, i)
                    for c in range(length - 1, -1, -1):
                        t, change = first + c, fill(0.0, 16)
                        for i in range(0, key_dim, 16):
                            place = c * key_dim + i
                            of_q, x, y = load(q_CK, place, 16), load(x_CK, place, 16), load(y_CK, place, 16)
                            store(at(grad_q, b, t, h), i, of_q)
                            store(at(grad_k, b, t, h), i, x - y)
                            moved = load(query_CK, place, 16) * of_q - load(key_CK, place, 16) * (x + y)
                            if channel:
                                moved = load(along, i, 16) + moved
                                store(along, i, moved)
                                store(at(grad_g, b, t, h), i, moved)
                            else:
                                change = change + moved
                        put(at(grad_beta, b, t, h), 0, scalar(of_beta, c))
                        if not channel:
                            of_g += total(change)
                            put(at(grad_g, b, t, h), 0, of_g)
                    for i in range(key_dim):  # F . S between the chunks
                        part = fill(0.0, lanes)
                        for column in range(0, value_dim, lanes):
                            place = column * key_dim + i * lanes
                            part = multiply_add(load(flow, place, lanes), load(start, place, lanes), part)
                        put(along, i, total(part))
                for column in range(0, value_dim, lanes):
                    for i in range(key_dim):
                        store(whole, i * value_dim + column, load(flow, column * key_dim + i * lanes, lanes))
    return delta_rule_backward


@numba.njit
def _sum_by_head(key_CK, query_CK, decay_C, on_q, on_x, on_x_key, on_y, ones, q_KC, x_KC, y_KC, length,
                 key_dim):
    """Adds what the tokens of the chunk give each other, where S0 and F gave theirs. Lanes are tokens t."""
    decay = fill(0.0, 16)
    for s in range(length):  # by A_s / A_t for t <= s
        between = repeat(decay_C, s, 16) * decay
        decay = between + load(ones, 16 * s, 16)
        store(on_x, 16 * s, decay * load(on_x, 16 * s, 16))
        store(on_x_key, 16 * s, between * load(on_x_key, 16 * s, 16))
    to_end, decay = decay, fill(0.0, 16)
    for s in range(length - 1, -1, -1):  # by A_t / A_s for t >= s
        store(on_y, 16 * s, decay * load(on_y, 16 * s, 16))
        decay = decay + load(ones, 16 * s, 16)
        store(on_q, 16 * s, decay * load(on_q, 16 * s, 16))
        decay = repeat(decay_C, s, 16) * decay
    to_end, from_start = tile(to_end, 4), tile(decay, 4)
    for i in range(0, key_dim, 4):
        of_q, y = from_start * load(q_KC, 16 * i, 64), from_start * load(y_KC, 16 * i, 64)
        x = to_end * load(x_KC, 16 * i, 64)
        for s in range(length):
            key, query = spread(key_CK, s * key_dim + i, 1, 4, 16), spread(query_CK, s * key_dim + i, 1, 4, 16)
            of_q = multiply_add(key, tile(load(on_q, 16 * s, 16), 4), of_q)
            y = multiply_add(key, tile(load(on_y, 16 * s, 16), 4), y)
            x = multiply_add(query, tile(load(on_x, 16 * s, 16), 4), x)
            x = x - key * tile(load(on_x_key, 16 * s, 16), 4)
        store(q_KC, 16 * i, of_q)
        store(x_KC, 16 * i, x)
        store(y_KC, 16 * i, y)


@numba.njit
def _sum_by_channel(key_CK, query_CK, decay_CK, on_q, on_x, on_x_key, on_y, ones, q_KC, x_KC, y_KC, length,
                    key_dim):
    """`_sum_by_head` with a decay of each key channel."""
    for i in range(0, key_dim, 4):
        of_q, x, y, decay = fill(0.0, 64), fill(0.0, 64), fill(0.0, 64), fill(0.0, 64)
        for s in range(length):
            key, query = spread(key_CK, s * key_dim + i, 1, 4, 16), spread(query_CK, s * key_dim + i, 1, 4, 16)
            between = decay * spread(decay_CK, s * key_dim + i, 1, 4, 16)
            decay = between + tile(load(ones, 16 * s, 16), 4)
            x = multiply_add(query * decay, tile(load(on_x, 16 * s, 16), 4), x)
            x = x - key * between * tile(load(on_x_key, 16 * s, 16), 4)
        store(x_KC, 16 * i, multiply_add(decay, load(x_KC, 16 * i, 64), x))
        decay = fill(0.0, 64)
        for s in range(length - 1, -1, -1):
            key = spread(key_CK, s * key_dim + i, 1, 4, 16)
            y = multiply_add(key * decay, tile(load(on_y, 16 * s, 16), 4), y)
            decay = decay + tile(load(ones, 16 * s, 16), 4)
            of_q = multiply_add(key * decay, tile(load(on_q, 16 * s, 16), 4), of_q)
            decay = decay * spread(decay_CK, s * key_dim + i, 1, 4, 16)
        store(q_KC, 16 * i, multiply_add(decay, load(q_KC, 16 * i, 64), of_q))
        store(y_KC, 16 * i, multiply_add(decay, load(y_KC, 16 * i, 64), y))


class _DeltaRule(torch.autograd.Function):
    """g: [B, T, H], or by key channel [B, T, H, K]. All float32, with neighbouring entries in the last dimension."""

    @staticmethod
    def forward(ctx: Any, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g: Tensor,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (*q_BTHK.shape, v_BTHV.shape[-1])
        batch, tokens, heads, key_dim, value_dim = sizes
        o_BTHV, error_BTHV = torch.empty(2, batch, tokens, heads, value_dim).unbind()
        starts = torch.empty(batch, heads, -(-tokens // CHUNK), key_dim, value_dim)
        final_BHKV = _run(q_BTHK, k_BTHK, v_BTHV, beta_BTH, g, state_BHKV, o_BTHV, error_BTHV, starts)
        inputs = q_BTHK, k_BTHK, v_BTHV, beta_BTH, g, state_BHKV
        ctx.save_for_backward(*inputs, error_BTHV, starts, final_BHKV)
        ctx.sizes = sizes
        return o_BTHV, final_BHKV

    @staticmethod
    def backward(ctx: Any, grad_o_BTHV: Tensor, grad_final_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, error_BTHV, starts, final_BHKV = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *differentiable(_reference, inputs, (grad_o_BTHV, grad_final_BHKV)),
        q_BTHK, k_BTHK, _, beta_BTH, g, _ = inputs
        key_dim, value_dim = ctx.sizes[3:]
        grad_o_BTHV, channel = ready(grad_o_BTHV), g.ndim == 4
        grads = [torch.empty(x.shape) for x in (q_BTHK, k_BTHK, error_BTHV, beta_BTH, g)]
        grad_state_BHKV = grad_final_BHKV.contiguous().clone()
        kernel = _backward(lanes_of(value_dim), channel)
        tensors = q_BTHK, k_BTHK, beta_BTH, g, error_BTHV, grad_o_BTHV

        def run(part: slice) -> None:
            room = torch.empty(key_dim * value_dim + 97 * value_dim + 145 * key_dim + 6 * 256)
            kernel(*(view(x[part]) for x in tensors), starts[part].data_ptr(), final_BHKV[part].data_ptr(),
                   grad_state_BHKV[part].data_ptr(), *(view(x[part]) for x in grads), room.data_ptr(),
                   (part.stop - part.start, *ctx.sizes[1:]))

        over_batches(ctx.sizes[0], run)
        return *grads, grad_state_BHKV


def _run(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g: Tensor, state_BHKV: Tensor, o: Tensor,
         error: Tensor, starts: Tensor | None, inplace: bool = False) -> Tensor:
    """Fills o, error and starts; returns the final state."""
    key_dim, value_dim = state_BHKV.shape[2:]
    final_BHKV = state_BHKV.contiguous() if inplace else state_BHKV.clone(memory_format=torch.contiguous_format)
    lanes, (batch, *sizes) = lanes_of(value_dim), q_BTHK.shape
    kernel, tensors = _forward(lanes, g.ndim == 4), (q_BTHK, k_BTHK, v_BTHV, beta_BTH, g, o, error)

    def run(part: slice) -> None:
        room = torch.empty(key_dim * (lanes + 1))
        kernel(*(view(x[part]) for x in tensors), final_BHKV[part].data_ptr(),
               0 if starts is None else starts[part].data_ptr(), room.data_ptr(),
               (part.stop - part.start, *sizes, value_dim))

    over_batches(batch, run)
    return final_BHKV


def _reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g: Tensor,
               state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    if g.ndim == 3:
        return delta_rule_reference(q_BTHK, k_BTHK, v_BTHV, beta_BTH, g, state_BHKV)
    return dplr_reference(q_BTHK, k_BTHK * beta_BTH.unsqueeze(-1), v_BTHV, -k_BTHK, None, g, state_BHKV)


def delta_rule(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTH: Tensor | None,
               state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`delta_rule_chunked`: (o_BTHV, final state)."""
    if g_BTH is None:
        g_BTH = beta_BTH.new_zeros(()).expand(beta_BTH.shape)
    return kda(q_BTHK, k_BTHK, v_BTHV, beta_BTH, g_BTH, state_BHKV)


def kda(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g: Tensor,
        state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`kda_chunked`: (o_BTHV, final state)."""
    if odd(state_BHKV):
        key_dim, value_dim = state_BHKV.shape[2:]
        (q_BTHK, k_BTHK, *by_channel), v_BTHV, state_BHKV = filled(
            (q_BTHK, k_BTHK, g) if g.ndim == 4 else (q_BTHK, k_BTHK), v_BTHV, state_BHKV)
        o_BTHV, final_BHKV = kda(q_BTHK, k_BTHK, v_BTHV, beta_BTH, by_channel[0] if by_channel else g, state_BHKV)
        return o_BTHV[..., :value_dim], final_BHKV[:, :, :key_dim, :value_dim]
    inputs = (ready(q_BTHK), ready(k_BTHK), ready(v_BTHV), beta_BTH.float(), ready(g) if g.ndim == 4 else g.float())
    state_BHKV = state_BHKV.float()
    if not q_BTHK.shape[1]:
        return inputs[2], state_BHKV
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, state_BHKV)):
        o_BTHV, final_BHKV = _DeltaRule.apply(*inputs, state_BHKV)
        return o_BTHV, final_BHKV
    o_BTHV = torch.empty(inputs[2].shape)
    return o_BTHV, _run(*inputs, state_BHKV, o_BTHV, o_BTHV, None)


def delta_rule_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g_BH: Tensor | None,
                    state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`delta_rule_step` without gradients; the state is written in place. By torch if sizes are odd."""
    if odd(state_BHKV):
        return step_by_torch(q_BHK, k_BHK, v_BHV, beta_BH, g_BH, state_BHKV.float())
    if g_BH is None:
        g_BH = beta_BH.new_zeros(()).expand(beta_BH.shape)
    return kda_step(q_BHK, k_BHK, v_BHV, beta_BH, g_BH, state_BHKV)


def kda_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`kda_step` without gradients; the state is written in place. By torch if sizes are odd."""
    if odd(state_BHKV):
        return kda_step_by_torch(q_BHK.float(), k_BHK.float(), v_BHV.float(), beta_BH.float(), g.float(),
                                 state_BHKV.float())
    q, k, v = (ready(x).unsqueeze(1) for x in (q_BHK, k_BHK, v_BHV))
    beta, g = beta_BH.float().unsqueeze(1), (ready(g) if g.ndim == 3 else g.float()).unsqueeze(1)
    o_BTHV = torch.empty(v.shape)
    final_BHKV = _run(q, k, v, beta, g, state_BHKV.float(), o_BTHV, o_BTHV, None, inplace=True)
    return o_BTHV.squeeze(1), final_BHKV
