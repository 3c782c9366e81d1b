"""The loop in which linear attention spends its time, over tiles of a state that stay in registers.

All is without decay: a chunk of queries and keys is divided by its own decays before, and multiplied by them after.
Forward and backward pass are four runs of the same loop:

    o: rows are key entries, S += k' v, o += q' S;              dq: rows are value entries, S += v k', dq += do S
    dv: rows are key entries, from the end, D += q' do, dv += k' D;   dk: rows are value entries, D += do q', dk += v D
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashnas.operators.compiled.jit import compiled
from flashnas.operators.compiled.vectors import LANES, fma, load, load_bits, splat, spread, store, total, transpose_16

ROWS = 8  # of a tile: with two vectors each, 16 of a CPU's 32 registers


@compiled
def _row(packed: Any, read: int, write: int, x0: Any, x1: Any, s0: Any, s1: Any, y0: Any, y1: Any) -> Any:
    """One row of a tile: S += write x, y += read S."""
    key, query = spread(packed, write), spread(packed, read)
    s0, s1 = fma(key, x0, s0), fma(key, x1, s1)
    return s0, s1, fma(query, s0, y0), fma(query, s1, y1)


@compiled
def run_tiles(packed: Any, x: Any, x_at: int, y: Any, y_at: int, state: Any, tokens: int, rows: int, width: int,
              backwards: bool) -> None:
    """For each token: state += written x^T, then y += state^T read.

    packed: read and written, as `pack` puts them side by side. x, y: [tokens, width] from x_at and y_at on. state:
    [rows, width]; both sizes are multiples of 16. backwards: from the last token to the first.
    """
    for block in range(rows // ROWS):
        for j in range(0, width, 2 * LANES):
            r = block * ROWS * width + j
            other = LANES if j + LANES < width else 0  # the last tile of an odd number of vectors computes one twice
            a0, b0 = load(state, r), load(state, r + other)
            a1, b1 = load(state, r + width), load(state, r + width + other)
            a2, b2 = load(state, r + 2 * width), load(state, r + 2 * width + other)
            a3, b3 = load(state, r + 3 * width), load(state, r + 3 * width + other)
            a4, b4 = load(state, r + 4 * width), load(state, r + 4 * width + other)
            a5, b5 = load(state, r + 5 * width), load(state, r + 5 * width + other)
            a6, b6 = load(state, r + 6 * width), load(state, r + 6 * width + other)
            a7, b7 = load(state, r + 7 * width), load(state, r + 7 * width + other)
            for n in range(tokens):
                t = tokens - 1 - n if backwards else n
                u = (block // 2 * tokens + t) * 2 * LANES + block % 2 * ROWS
                w, at, to = u + LANES, x_at + t * width + j, y_at + t * width + j
                x0, x1, y0, y1 = load(x, at), load(x, at + other), load(y, to), load(y, to + other)
                a0, b0, y0, y1 = _row(packed, u, w, x0, x1, a0, b0, y0, y1)
                a1, b1, y0, y1 = _row(packed, u + 1, w + 1, x0, x1, a1, b1, y0, y1)
                a2, b2, y0, y1 = _row(packed, u + 2, w + 2, x0, x1, a2, b2, y0, y1)
                a3, b3, y0, y1 = _row(packed, u + 3, w + 3, x0, x1, a3, b3, y0, y1)
                a4, b4, y0, y1 = _row(packed, u + 4, w + 4, x0, x1, a4, b4, y0, y1)
                a5, b5, y0, y1 = _row(packed, u + 5, w + 5, x0, x1, a5, b5, y0, y1)
                a6, b6, y0, y1 = _row(packed, u + 6, w + 6, x0, x1, a6, b6, y0, y1)
                a7, b7, y0, y1 = _row(packed, u + 7, w + 7, x0, x1, a7, b7, y0, y1)
                store(y, to, y0)
                store(y, to + other, y1)
            store(state, r, a0)
            store(state, r + other, b0)
            store(state, r + width, a1)
            store(state, r + width + other, b1)
            store(state, r + 2 * width, a2)
            store(state, r + 2 * width + other, b2)
            store(state, r + 3 * width, a3)
            store(state, r + 3 * width + other, b3)
            store(state, r + 4 * width, a4)
            store(state, r + 4 * width + other, b4)
            store(state, r + 5 * width, a5)
            store(state, r + 5 * width + other, b5)
            store(state, r + 6 * width, a6)
            store(state, r + 6 * width + other, b6)
            store(state, r + 7 * width, a7)
            store(state, r + 7 * width + other, b7)


@compiled
def pack(read: Any, written: Any, at: int, tokens: int, size: int, packed: Any) -> None:
    """Two [tokens, size] from `at` on as [size / 16, tokens, 16 of the one read, 16 of the one written].

    What a tile needs of a token then lies side by side.
    """
    for block in range(size // LANES):
        for t in range(tokens):
            place, source = (block * tokens + t) * 2 * LANES, at + t * size + block * LANES
            store(packed, place, load(read, source))
            store(packed, place + LANES, load(written, source))


@compiled
def load_rows(bits: Any, at: int, stride: int, half: bool, tokens: int, size: int, out: Any) -> None:
    """Rows of a tensor in float32 or bfloat16, `stride` apart, as [tokens, size]."""
    for t in range(tokens):
        for i in range(0, size, LANES):
            store(out, t * size + i, load_bits(bits, at + t * stride + i, half))


@compiled
def copy(source: Any, at: int, target: Any, to: int, size: int) -> None:
    for i in range(0, size, LANES):
        store(target, to + i, load(source, at + i))


@compiled
def clear(target: Any, size: int) -> None:
    for i in range(0, size, LANES):
        store(target, i, splat(np.float32(0.0)))


@compiled
def scale(state: Any, factor: float, size: int) -> None:
    for i in range(0, size, LANES):
        store(state, i, load(state, i) * splat(factor))


@compiled
def transpose(matrix: Any, at: int, rows: int, columns: int, out: Any) -> None:
    """[rows, columns] from `at` on as [columns, rows]."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            transpose_16(matrix, at + i * columns + j, columns, out, j * rows + i, rows)


@compiled
def inner_product(x: Any, at: int, y: Any, to: int, size: int) -> float:
    result = splat(np.float32(0.0))
    for i in range(0, size, LANES):
        result = fma(load(x, at + i), load(y, to + i), result)
    return total(result)
