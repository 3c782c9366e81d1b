"""Loops over rows, columns and tiles that several kernels share; all sizes are multiples of 16.

`run_tiles` is the loop in which linear attention spends its time, over tiles of a state that stay in
registers. All is without decay: a chunk of queries and keys is divided by its own decays before, and
multiplied by them after. Forward and backward pass are four runs of the same loop:

    o:  rows are key entries, S += k' v, o += q' S
    dq: rows are value entries, S += v k', dq += do S
    dv: rows are key entries, from the end, D += q' do, dv += k' D
    dk: rows are value entries, from the end, D += do q', dk += v D
"""

from __future__ import annotations

from collections.abc import Callable

from numba.extending import overload

from flashnas.operators.compiled.jit import compiled, variant
from flashnas.operators.compiled.vectors import (
    LANES,
    fill,
    fma,
    load,
    load_bits,
    repeat,
    spread,
    store,
    tile,
    total,
    transpose_16,
)

ROWS = 8  # of a tile: with two vectors each, 16 of a CPU's 32 registers
ENTRIES = 16 * ROWS  # of a product at once


def _tiles(lanes: int) -> Callable[..., None]:
    """`run_tiles` in tiles of 8 rows and `lanes` columns, which divide the width."""
    @variant(f"{lanes}")
    def row(packed, read, write, x, s, y):
        """One row of a tile: S += write x, y += read S."""
        s = fma(repeat(packed, write, lanes), x, s)
        return s, fma(repeat(packed, read, lanes), s, y)

    @variant(f"{lanes}")
    def run(packed, x, x_at, y, y_at, state, tokens, rows, width, backwards):
        for block in range(rows // ROWS):
            for j in range(0, width, lanes):
                r = block * ROWS * width + j
                s0, s1 = load(state, r, lanes), load(state, r + width, lanes)
                s2, s3 = load(state, r + 2 * width, lanes), load(state, r + 3 * width, lanes)
                s4, s5 = load(state, r + 4 * width, lanes), load(state, r + 5 * width, lanes)
                s6, s7 = load(state, r + 6 * width, lanes), load(state, r + 7 * width, lanes)
                for n in range(tokens):
                    t = tokens - 1 - n if backwards else n
                    u = (block // 2 * tokens + t) * 2 * LANES + block % 2 * ROWS
                    w, to = u + LANES, y_at + t * width + j
                    value, out = load(x, x_at + t * width + j, lanes), load(y, to, lanes)
                    s0, out = row(packed, u, w, value, s0, out)
                    s1, out = row(packed, u + 1, w + 1, value, s1, out)
                    s2, out = row(packed, u + 2, w + 2, value, s2, out)
                    s3, out = row(packed, u + 3, w + 3, value, s3, out)
                    s4, out = row(packed, u + 4, w + 4, value, s4, out)
                    s5, out = row(packed, u + 5, w + 5, value, s5, out)
                    s6, out = row(packed, u + 6, w + 6, value, s6, out)
                    s7, out = row(packed, u + 7, w + 7, value, s7, out)
                    store(y, to, out)
                store(state, r, s0)
                store(state, r + width, s1)
                store(state, r + 2 * width, s2)
                store(state, r + 3 * width, s3)
                store(state, r + 4 * width, s4)
                store(state, r + 5 * width, s5)
                store(state, r + 6 * width, s6)
                store(state, r + 7 * width, s7)
    return run


_run_narrow, _run_wide = _tiles(LANES), _tiles(2 * LANES)


@compiled
def run_tiles(packed, x, x_at, y, y_at, state, tokens, rows, width, backwards):
    """For each token: state += written x^T, then y += state^T read.

    packed: read and written, as `pack` puts them side by side. x, y: [tokens, width] from x_at and y_at on.
    state: [rows, width]. backwards: from the last token to the first.
    """
    if width % (2 * LANES):
        _run_narrow(packed, x, x_at, y, y_at, state, tokens, rows, width, backwards)
    else:
        _run_wide(packed, x, x_at, y, y_at, state, tokens, rows, width, backwards)


@compiled
def pack(read, written, at, tokens, size, packed):
    """Two [tokens, size] from `at` on as [size / 16, tokens, 16 of the one read, 16 of the one written].

    What a tile needs of a token then lies side by side.
    """
    for block in range(size // LANES):
        for t in range(tokens):
            place, source = (block * tokens + t) * 2 * LANES, at + t * size + block * LANES
            store(packed, place, load(read, source))
            store(packed, place + LANES, load(written, source))


@compiled
def load_rows(bits, at, stride, half, tokens, size, out):
    """Rows of a tensor in float32 or bfloat16, `stride` apart, as [tokens, size]."""
    for t in range(tokens):
        for i in range(0, size, LANES):
            store(out, t * size + i, load_bits(bits, at + t * stride + i, half))


@compiled
def copy(source, at, target, to, size):
    for i in range(0, size, LANES):
        store(target, to + i, load(source, at + i))


@compiled
def clear(target, size):
    for i in range(0, size, LANES):
        store(target, i, fill(0.0))


@compiled
def transpose(matrix, at, rows, columns, out):
    """[rows, columns] from `at` on as [columns, rows]."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            transpose_16(matrix, at + i * columns + j, columns, out, j * rows + i, rows)


@compiled
def inner_product(x, at, y, to, size):
    """The sum of x[at + i] y[to + i]."""
    result = load(x, at) * load(y, to)
    for i in range(LANES, size, LANES):
        result = fma(load(x, at + i), load(y, to + i), result)
    return total(result)


def add_product(width: int, left: int, right: int, out: int, rows: int) -> None:
    """out += left right, in compiled code, for left [rows, width], right [width, 16] and out [rows, 16] at
    addresses."""
    raise NotImplementedError("add_product can be called from compiled code only")


@overload(add_product, prefer_literal=True)
def _add_product(width, left, right, out, rows):
    size = width.literal_value  # so that LLVM knows how far apart the rows are

    def add(width, left, right, out, rows):
        for i in range(0, rows, ROWS):
            y = load(out, 16 * i, ENTRIES)
            for j in range(size):
                y = fma(spread(left, i * size + j, size, ROWS, 16), tile(load(right, 16 * j), ROWS), y)
            store(out, 16 * i, y)
    return add
