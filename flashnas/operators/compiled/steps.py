"""One token of the recurrences whose state only decays and is added to, compiled: one pass over the state, in
place.

What linear_attention.py calls is S <- diag(decay) S + k v^T;  o = S^T q. What selective_scan.py calls has a
decay for each entry of S.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flashnas.operators.compiled.jit import (
    at,
    compiled,
    lanes_of,
    over_batches,
    ready,
    variant,
    view,
    writable,
)
from flashnas.operators.compiled.vectors import exponential, fill, fma, load, repeat, scalar, spread, store

SHARE = 1 << 18  # of the entries of all states that is worth a thread


@functools.cache
def _kernel(lanes: int, channel: bool) -> Callable[..., None]:
    """The kernel for blocks of `lanes` value channels, for sequences `first` to `end` of the batch.

    g: by channel log decays, else time steps, which multiply the values too; the rates at address `rate` are
    then the heads'. state: [B, H, K, V], replaced. decays: scratch, [K].
    """
    @variant(f"{lanes}_{'channel' if channel else 'head'}")
    def linear_step(q, k, v, g, rate, o, state, decays, first, end, sizes):
        groups, heads, key_dim, value_dim = sizes
        for b in range(first, end):
            for h in range(heads):
                factor = np.float32(1.0)
                if channel:
                    for i in range(0, key_dim, 16):
                        store(decays, i, exponential(load(at(g, b, 0, h), i, 16)))
                else:
                    factor = scalar(at(g, b, 0, h), 0)
                    decay = np.exp(-factor * scalar(rate, h))
                    for i in range(key_dim):
                        store(decays, i, decay)
                query, key = at(q, b, 0, h * groups // heads), at(k, b, 0, h * groups // heads)
                for column in range(0, value_dim, lanes):
                    matrix = state + 4 * ((b * heads + h) * key_dim * value_dim + column)
                    value, out = load(at(v, b, 0, h), column, lanes) * fill(factor, lanes), fill(0.0, lanes)
                    for i in range(key_dim):
                        row = load(matrix, i * value_dim, lanes) * repeat(decays, i, lanes)
                        row = fma(repeat(key, i, lanes), value, row)
                        store(matrix, i * value_dim, row)
                        out = fma(repeat(query, i, lanes), row, out)
                    store(at(o, b, 0, h), column, out)
    return linear_step


def linear_step(q_BGK: Tensor, k_BGK: Tensor, v_BHV: Tensor, g: Tensor, rate_H: Tensor | None,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """(o_BHV, the state, written in place); head h reads group h // (heads / groups). K and V are multiples
    of 16.

    g: log decays [B, H, K], without rates; or time steps [B, H], which multiply values and rates.
    """
    batch, heads, key_dim, value_dim = state_BHKV.shape
    state_BHKV, o_BHV = writable(state_BHKV.float()), torch.empty(batch, heads, value_dim)
    q_BGK, k_BGK, v_BHV = ready(q_BGK), ready(k_BGK), ready(v_BHV)
    g, rate = (ready(g), None) if rate_H is None else (g.float(), rate_H.float().contiguous())
    kernel, sizes = _kernel(lanes_of(value_dim), rate is None), (q_BGK.shape[1], heads, key_dim, value_dim)
    views = [view(x.unsqueeze(1)) for x in (q_BGK, k_BGK, v_BHV, g)]

    def run(part: slice) -> None:
        decays = torch.empty(key_dim)
        kernel(*views, 0 if rate is None else rate.data_ptr(), view(o_BHV.unsqueeze(1)),
               state_BHKV.data_ptr(), decays.data_ptr(), part.start, part.stop, sizes)

    over_batches(batch, run, -(-SHARE // (heads * key_dim * value_dim)))
    return o_BHV, state_BHKV


@compiled
def _scan(x, dt, a, b, c, y, state, first, end, sizes):
    """For sequences `first` to `end` of the batch. x, dt and y: [B, C] at addresses; b and c: addresses, and
    how far apart their rows are; a: address, and how far apart entries and channels are. state: [B, N, C],
    replaced."""
    entries, channels = sizes
    for n in range(first, end):
        for j in range(0, channels, 16):
            place, step_size = n * channels + j, load(dt, n * channels + j, 16)
            u, out = step_size * load(x, place, 16), fill(0.0, 16)
            for e in range(entries):
                at_entry = (n * entries + e) * channels + j
                decay = exponential(step_size * spread(a[0], e * a[1] + j * a[2], a[2], 16, 1))
                now = load(state, at_entry, 16) * decay
                now = fma(repeat(b[0], n * b[1] + e, 16), u, now)
                store(state, at_entry, now)
                out = fma(repeat(c[0], n * c[1] + e, 16), now, out)
            store(y, place, out)


def scan_step(x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
              state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """(y_BC, the state, written in place); C is a multiple of 16."""
    batch, entries, channels = state_BNC.shape
    state_BNC, y_BC = writable(state_BNC.float()), torch.empty(batch, channels)
    x_BC, dt_BC = x_BC.float().contiguous(), dt_BC.float().contiguous()
    a_NC, b_BN, c_BN = a_NC.float(), ready(b_BN), ready(c_BN)

    def run(part: slice) -> None:
        _scan(x_BC.data_ptr(), dt_BC.data_ptr(), (a_NC.data_ptr(), *a_NC.stride()),
              (b_BN.data_ptr(), b_BN.stride(0)), (c_BN.data_ptr(), c_BN.stride(0)), y_BC.data_ptr(),
              state_BNC.data_ptr(), part.start, part.stop, (entries, channels))

    over_batches(batch, run, -(-SHARE // (entries * channels)))
    return y_BC, state_BNC
