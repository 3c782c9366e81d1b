"""The delta rule, plain, gated by head or by key channel, and RWKV7's recurrence, token by token;
recurrences/delta_rule.py and recurrences/dplr.py have plain forms.

    S' = diag(exp(g)) S;  p = S'^T a;  S = S' + k d^T [+ b p^T];  o = S^T q

RWKV7 (arXiv 2503.14456) has d = v and writes with b as well. The delta rules (arXiv 2406.06484, 2412.06464,
2510.26692) have a = -k and d = beta (v + p), without b: one vector writes.

Forward, one pass over the state writes token t and reads for token t + 1: S'^T a and S'^T q. The value
channels are independent of each other; a block of them at a time, the state stays in the first-level cache.

Backward, with F the gradient of S that comes from later tokens and G = F + q grad_o^T:
    grad_d = G^T k;  grad_p = G^T b, or beta grad_d;  F <- exp(g) (G + a grad_p^T)
is a pass of the same kind over F. What is left are products, for 16 tokens at once, of the state S0 before
them, which the forward pass kept, and of F after them:
    grad_q = S grad_o;  grad_a = S' grad_p;  grad_k = G d;  grad_b = G p
    S_t = A_t S0 + sum_{s <= t} A_t / A_s k_s d_s^T [+ ..], A_t the product of the decays up to t; F_t alike
    grad_g_t = grad_g_{t + 1} + q grad_q + a grad_a - k grad_k - b grad_b, from F . S after the 16 tokens
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from flashnas.operators.compiled.jit import at, variant
from flashnas.operators.compiled.tiles import add_product, clear, inner_product
from flashnas.operators.compiled.vectors import (
    exponential,
    fill,
    fma,
    fold,
    load,
    repeat,
    scalar,
    spread,
    store,
    tile,
    total,
    transpose_16,
)


@functools.cache
def forward_kernel(lanes: int, channel: bool, pair: bool) -> Callable[..., None]:
    """The kernel for blocks of `lanes` value channels.

    channel: a decay per key channel, else per head. pair: k and b write, as in RWKV7; else `b` are the rates
    beta, and `a` is the key itself. seen: receives p, or v + p. starts: where the states before each chunk
    go, [B, H, chunks, V / lanes, K, lanes], or 0. state: [B, H, K, V], replaced.
    """
    rows = 64 // lanes  # of the state at once

    @variant(f"{lanes}_{channel}_{pair}")
    def delta_rule_forward(q, k, v, a, b, g, o, seen, state, starts, room, sizes):
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
                    key, other = at(k, n, 0, h), at(b, n, 0, h)
                    write, read = fill(0.0, lanes), fill(0.0, lanes)
                    for t in range(tokens):
                        query, reader = at(q, n, t, h), at(a, n, t, h)
                        seen_by_reader, seen_by_query = fill(0.0, 64), fill(0.0, 64)
                        keep = starts != 0 and t % 16 == 0
                        if channel:
                            for i in range(0, key_dim, 16):
                                store(decays, i, exponential(load(at(g, n, t, h), i)))
                        else:
                            decay = fill(np.exp(scalar(at(g, n, t, h), 0)), 64)
                        write_rows, read_rows = tile(write, rows), tile(read, rows)
                        for i in range(0, key_dim, rows):
                            row = load(matrix, i * lanes, 64)
                            row = fma(spread(key, i, 1, rows, lanes), write_rows, row)
                            if pair:
                                row = fma(spread(other, i, 1, rows, lanes), read_rows, row)
                            if keep:
                                store(start, i * lanes, row)
                            row = row * spread(decays, i, 1, rows, lanes) if channel else row * decay
                            store(matrix, i * lanes, row)
                            seen_by_reader = fma(spread(reader, i, 1, rows, lanes), row, seen_by_reader)
                            seen_by_query = fma(spread(query, i, 1, rows, lanes), row, seen_by_query)
                        if keep:
                            start += 4 * key_dim * value_dim
                        key, other, out = at(k, n, t, h), at(b, n, t, h), fold(seen_by_query, rows)
                        if pair:
                            read, write = fold(seen_by_reader, rows), load(at(v, n, t, h), column, lanes)
                            out = fma(fill(inner_product(query, 0, other, 0, key_dim), lanes), read, out)
                        else:
                            read = load(at(v, n, t, h), column, lanes) - fold(seen_by_reader, rows)
                            write = repeat(other, 0, lanes) * read
                        store(at(seen, n, t, h), column, read)
                        alike = fill(inner_product(query, 0, key, 0, key_dim), lanes)
                        store(at(o, n, t, h), column, fma(alike, write, out))
                    for i in range(key_dim):
                        row = fma(repeat(key, i, lanes), write, load(matrix, i * lanes, lanes))
                        if pair:
                            row = fma(repeat(other, i, lanes), read, row)
                        store(whole, i * value_dim, row)
    return delta_rule_forward


@functools.cache
def backward_kernel(lanes: int, channel: bool, pair: bool) -> Callable[..., None]:
    """The kernel of the gradients; arguments as in `forward_kernel`. grad_state: of the final state [B, H, K,
    V], replaced by that of the first one.

    In the names of local arrays C is a chunk, the two last letters are the dimensions.
    """
    rows = 64 // lanes

    @variant(f"{lanes}_{channel}_{pair}")
    def delta_rule_backward(q, k, v, a, b, g, seen, grad_o, starts, final, grad_state, grad_q, grad_k, grad_v,
                            grad_a, grad_b, grad_g, room, sizes):
        batch, tokens, heads, key_dim, value_dim = sizes
        # sizes of chunks in bytes
        chunks, by_key, by_value = (tokens + 15) // 16, 64 * key_dim, 64 * value_dim
        flow = room  # F, [V / lanes, K, lanes]
        of_o_CV = flow + 4 * key_dim * value_dim
        write_CV, read_CV, of_read_CV = of_o_CV + by_value, of_o_CV + 2 * by_value, of_o_CV + 3 * by_value
        of_o_VC, write_VC = of_o_CV + 4 * by_value, of_o_CV + 5 * by_value
        read_VC, of_read_VC = of_o_CV + 6 * by_value, of_o_CV + 7 * by_value
        q_KC = of_o_CV + 8 * by_value  # gradients, then copies of the inputs
        a_KC, b_KC, k_KC, q_CK = q_KC + by_key, q_KC + 2 * by_key, q_KC + 3 * by_key, q_KC + 4 * by_key
        a_CK, b_CK, k_CK, query_CK = q_CK + by_key, q_CK + 2 * by_key, q_CK + 3 * by_key, q_CK + 4 * by_key
        reader_CK, other_CK, key_CK = query_CK + by_key, query_CK + 2 * by_key, query_CK + 3 * by_key
        decay_CK = query_CK + 4 * by_key
        # [8, s, t]: grad_o . d, grad_o . p, grad_p . d, grad_p . p; transposed ones
        tables = decay_CK + by_key
        ones = tables + 8192
        of_key, of_other = ones + 1024, ones + 1024 + 4 * value_dim
        along, of_rate = of_other + 4 * value_dim, of_other + 4 * value_dim + 4 * key_dim
        clear(ones, 256)
        for s in range(16):
            store(ones, 17 * s, np.float32(1.0))
        for n in range(batch):
            for h in range(heads):
                whole = grad_state + 4 * (n * heads + h) * key_dim * value_dim
                after = final + 4 * (n * heads + h) * key_dim * value_dim
                clear(along, key_dim)
                for column in range(0, value_dim, lanes):
                    block = flow + 4 * column * key_dim
                    key, other = at(k, n, tokens - 1, h), at(b, n, tokens - 1, h)
                    of_write, of_second = fill(0.0, lanes), fill(0.0, lanes)
                    for i in range(key_dim):
                        row = load(whole, i * value_dim + column, lanes)
                        store(block, i * lanes, row)
                        of_write = fma(repeat(key, i, lanes), row, of_write)
                        if pair:
                            of_second = fma(repeat(other, i, lanes), row, of_second)
                        moved = total(row * load(after, i * value_dim + column, lanes))
                        store(along, i, scalar(along, i) + moved)
                    store(of_key, column, of_write)
                    store(of_other, column, of_second)
                for m in range(chunks - 1, -1, -1):
                    first, length = 16 * m, min(16, tokens - 16 * m)
                    start = starts + 4 * ((n * heads + h) * chunks + m) * key_dim * value_dim
                    clear(of_rate, 16)
                    clear(of_o_CV, 4 * 16 * value_dim)
                    for c in range(length):
                        t = first + c
                        for column in range(0, value_dim, lanes):
                            place, read = 16 * column + lanes * c, load(at(seen, n, t, h), column, lanes)
                            store(of_o_CV, place, load(at(grad_o, n, t, h), column, lanes))
                            if pair:
                                store(write_CV, place, load(at(v, n, t, h), column, lanes))
                                store(read_CV, place, read)
                            else:
                                store(write_CV, place, repeat(at(b, n, t, h), 0, lanes) * read)
                        for i in range(0, key_dim, 16):
                            place, key = c * key_dim + i, load(at(k, n, t, h), i)
                            store(query_CK, place, load(at(q, n, t, h), i))
                            store(key_CK, place, key)
                            if pair:
                                store(reader_CK, place, load(at(a, n, t, h), i))
                                store(other_CK, place, load(at(b, n, t, h), i))
                            else:
                                store(reader_CK, place, fill(-1.0) * key)
                            if channel:
                                store(decay_CK, place, exponential(load(at(g, n, t, h), i)))
                        if not channel:
                            store(decay_CK, c, np.exp(scalar(at(g, n, t, h), 0)))
                    clear(q_KC, 4 * 16 * key_dim)
                    clear(tables, 4 * 256)
                    for column in range(0, value_dim, lanes):
                        block, here, beyond = flow + 4 * column * key_dim, 16 * column, 64 * column
                        for j in range(0, lanes, 16):
                            transpose_16(of_o_CV, here + j, lanes, of_o_VC, here + 16 * j, 16)
                            transpose_16(write_CV, here + j, lanes, write_VC, here + 16 * j, 16)
                            if pair:
                                transpose_16(read_CV, here + j, lanes, read_VC, here + 16 * j, 16)
                        if pair:
                            add_product(lanes, block, read_VC + beyond, b_KC, key_dim)
                        add_product(lanes, block, write_VC + beyond, k_KC, key_dim)
                        seen_by_key = load(of_key, column, lanes)
                        seen_by_other = load(of_other, column, lanes)
                        for c in range(length - 1, -1, -1):
                            t = first + c
                            of_o, place = load(of_o_CV, here + c * lanes, lanes), c * key_dim
                            query, key = query_CK + 4 * place, key_CK + 4 * place
                            reader = reader_CK + 4 * place
                            alike = fill(inner_product(key, 0, query, 0, key_dim), lanes)
                            of_write = fma(alike, of_o, seen_by_key)
                            if pair:
                                alike = fill(inner_product(other_CK, place, query, 0, key_dim), lanes)
                                of_read = fma(alike, of_o, seen_by_other)
                                store(at(grad_v, n, t, h), column, of_write)
                            else:
                                moved = total(of_write * load(at(seen, n, t, h), column, lanes))
                                store(of_rate, c, scalar(of_rate, c) + moved)
                                of_read = repeat(at(b, n, t, h), 0, lanes) * of_write
                                store(at(grad_v, n, t, h), column, of_read)
                            store(of_read_CV, here + c * lanes, of_read)
                            next_key, next_other = at(k, n, max(t - 1, 0), h), at(b, n, max(t - 1, 0), h)
                            key_rows, other_rows = fill(0.0, 64), fill(0.0, 64)
                            decay = repeat(decay_CK, c, 64)
                            of_o_rows, of_read_rows = tile(of_o, rows), tile(of_read, rows)
                            if not channel:
                                of_o_rows, of_read_rows = decay * of_o_rows, decay * of_read_rows
                            for i in range(0, key_dim, rows):
                                row = load(block, i * lanes, 64)
                                if not channel:
                                    row = decay * row
                                row = fma(spread(query, i, 1, rows, lanes), of_o_rows, row)
                                if pair:
                                    row = fma(spread(reader, i, 1, rows, lanes), of_read_rows, row)
                                else:
                                    row = row - spread(key, i, 1, rows, lanes) * of_read_rows
                                if channel:
                                    row = row * spread(decay_CK, place + i, 1, rows, lanes)
                                store(block, i * lanes, row)
                                key_rows = fma(spread(next_key, i, 1, rows, lanes), row, key_rows)
                                if pair:
                                    other_rows = fma(spread(next_other, i, 1, rows, lanes), row, other_rows)
                            seen_by_key, seen_by_other = fold(key_rows, rows), fold(other_rows, rows)
                        store(of_key, column, seen_by_key)
                        store(of_other, column, seen_by_other)
                        for j in range(0, lanes, 16):
                            transpose_16(of_read_CV, here + j, lanes, of_read_VC, here + 16 * j, 16)
                        add_product(lanes, start + 4 * column * key_dim, of_o_VC + beyond, q_KC, key_dim)
                        add_product(lanes, start + 4 * column * key_dim, of_read_VC + beyond, a_KC, key_dim)
                        add_product(lanes, of_o_CV + beyond, write_VC + beyond, tables, 16)
                        add_product(lanes, of_read_CV + beyond, write_VC + beyond, tables + 2048, 16)
                        if pair:
                            add_product(lanes, of_o_CV + beyond, read_VC + beyond, tables + 1024, 16)
                            add_product(lanes, of_read_CV + beyond, read_VC + beyond, tables + 3072, 16)
                    for s in range(0, 1024, 256):
                        transpose_16(tables, s, 16, tables, s + 1024, 16)
                    if channel:
                        _sum_by_channel(query_CK, reader_CK, other_CK, key_CK, decay_CK, tables, ones, q_KC,
                                        a_KC, b_KC, k_KC, length, key_dim, pair)
                    else:
                        _sum_by_head(query_CK, key_CK, decay_CK, tables, ones, q_KC, a_KC, k_KC, length,
                                     key_dim)
                    for i in range(0, key_dim, 16):
                        transpose_16(q_KC, 16 * i, 16, q_CK, i, key_dim)
                        transpose_16(a_KC, 16 * i, 16, a_CK, i, key_dim)
                        transpose_16(k_KC, 16 * i, 16, k_CK, i, key_dim)
                        if pair:
                            transpose_16(b_KC, 16 * i, 16, b_CK, i, key_dim)
                    of_g = np.float32(0.0)
                    if not channel:
                        for i in range(key_dim):
                            of_g += scalar(along, i)
                    for c in range(length - 1, -1, -1):
                        t, change = first + c, fill(0.0)
                        for i in range(0, key_dim, 16):
                            place = c * key_dim + i
                            of_q, of_a, of_k = load(q_CK, place), load(a_CK, place), load(k_CK, place)
                            store(at(grad_q, n, t, h), i, of_q)
                            if pair:
                                of_b = load(b_CK, place)
                                store(at(grad_a, n, t, h), i, of_a)
                                store(at(grad_b, n, t, h), i, of_b)
                                store(at(grad_k, n, t, h), i, of_k)
                                moved = load(along, i) + load(query_CK, place) * of_q
                                moved = moved + load(reader_CK, place) * of_a
                                moved = moved - load(other_CK, place) * of_b - load(key_CK, place) * of_k
                            else:
                                store(at(grad_k, n, t, h), i, of_k - of_a)
                                moved = load(query_CK, place) * of_q - load(key_CK, place) * (of_k + of_a)
                                if channel:
                                    moved = load(along, i) + moved
                            if channel:
                                store(along, i, moved)
                                store(at(grad_g, n, t, h), i, moved)
                            else:
                                change = change + moved
                        if not pair:
                            store(at(grad_b, n, t, h), 0, scalar(of_rate, c))
                        if not channel:
                            of_g += total(change)
                            store(at(grad_g, n, t, h), 0, of_g)
                    for i in range(key_dim):  # F . S between the chunks
                        part = fill(0.0, lanes)
                        for column in range(0, value_dim, lanes):
                            place = column * key_dim + i * lanes
                            part = fma(load(flow, place, lanes), load(start, place, lanes), part)
                        store(along, i, total(part))
                for column in range(0, value_dim, lanes):
                    for i in range(key_dim):
                        store(whole, i * value_dim + column, load(flow, column * key_dim + i * lanes, lanes))
    return delta_rule_backward


@numba.njit
def _sum_by_head(query_CK, key_CK, decay_C, tables, ones, q_KC, a_KC, k_KC, length, key_dim):
    """Adds what the tokens of the chunk give each other, where S0 and F gave theirs. Lanes are tokens t.

    The decays between two tokens go into the tables of their products first.
    """
    decay = fill(0.0)
    for s in range(length):  # by A_s / A_t for t <= s
        between = repeat(decay_C, s) * decay
        decay = between + load(ones, 16 * s)
        store(tables, 16 * s, decay * load(tables, 16 * s))
        store(tables, 512 + 16 * s, between * load(tables, 512 + 16 * s))
    to_end, decay = tile(decay, 4), fill(0.0)
    for s in range(length - 1, -1, -1):  # by A_t / A_s for t >= s
        store(tables, 1536 + 16 * s, decay * load(tables, 1536 + 16 * s))
        decay = decay + load(ones, 16 * s)
        store(tables, 1024 + 16 * s, decay * load(tables, 1024 + 16 * s))
        decay = repeat(decay_C, s) * decay
    from_start = tile(decay, 4)
    for i in range(0, key_dim, 4):
        of_q, of_a = from_start * load(q_KC, 16 * i, 64), from_start * load(a_KC, 16 * i, 64)
        of_k = to_end * load(k_KC, 16 * i, 64)
        for s in range(length):
            place = s * key_dim + i
            key, query = spread(key_CK, place, 1, 4, 16), spread(query_CK, place, 1, 4, 16)
            of_q = fma(key, tile(load(tables, 1024 + 16 * s), 4), of_q)
            of_a = fma(key, tile(load(tables, 1536 + 16 * s), 4), of_a)
            of_k = fma(query, tile(load(tables, 16 * s), 4), of_k)
            of_k = of_k - key * tile(load(tables, 512 + 16 * s), 4)
        store(q_KC, 16 * i, of_q)
        store(a_KC, 16 * i, of_a)
        store(k_KC, 16 * i, of_k)


@numba.njit
def _sum_by_channel(query_CK, reader_CK, other_CK, key_CK, decay_CK, tables, ones, q_KC, a_KC, b_KC, k_KC,
                    length, key_dim, pair):
    """`_sum_by_head` with a decay of each key channel, and with what b writes."""
    for i in range(0, key_dim, 4):
        of_b, of_k, decay = fill(0.0, 64), fill(0.0, 64), fill(0.0, 64)
        for s in range(length):
            place = s * key_dim + i
            between = decay * spread(decay_CK, place, 1, 4, 16)
            decay = between + tile(load(ones, 16 * s), 4)
            query = spread(query_CK, place, 1, 4, 16) * decay
            reader = between * spread(reader_CK, place, 1, 4, 16)
            of_k = fma(query, tile(load(tables, 16 * s), 4), of_k)
            of_k = fma(reader, tile(load(tables, 512 + 16 * s), 4), of_k)
            if pair:
                of_b = fma(query, tile(load(tables, 256 + 16 * s), 4), of_b)
                of_b = fma(reader, tile(load(tables, 768 + 16 * s), 4), of_b)
        store(k_KC, 16 * i, fma(decay, load(k_KC, 16 * i, 64), of_k))
        if pair:
            store(b_KC, 16 * i, fma(decay, load(b_KC, 16 * i, 64), of_b))
        of_q, of_a, decay = fill(0.0, 64), fill(0.0, 64), fill(0.0, 64)
        for s in range(length - 1, -1, -1):
            place = s * key_dim + i
            key, other = spread(key_CK, place, 1, 4, 16), spread(other_CK, place, 1, 4, 16)
            mixed = key * tile(load(tables, 1536 + 16 * s), 4)
            if pair:
                mixed = fma(other, tile(load(tables, 1792 + 16 * s), 4), mixed)
            of_a = fma(decay, mixed, of_a)
            decay = decay + tile(load(ones, 16 * s), 4)
            mixed = key * tile(load(tables, 1024 + 16 * s), 4)
            if pair:
                mixed = fma(other, tile(load(tables, 1280 + 16 * s), 4), mixed)
            of_q = fma(decay, mixed, of_q)
            decay = decay * spread(decay_CK, place, 1, 4, 16)
        store(q_KC, 16 * i, fma(decay, load(q_KC, 16 * i, 64), of_q))
        store(a_KC, 16 * i, fma(decay, load(a_KC, 16 * i, 64), of_a))
