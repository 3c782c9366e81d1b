"""The selective scan of Mamba, compiled; in the signatures of recurrences/selective_scan.py.

16 channels at a time. The backward pass takes the chunks of time from the last to the first and computes the
states of a chunk again, from the state that the forward pass kept at its start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashnas.operators.compiled.jit import bits, compiled, flat, rows, wide_copy
from flashnas.operators.compiled.steps import scan_step
from flashnas.operators.compiled.tiles import clear, copy
from flashnas.operators.compiled.vectors import (
    LANES,
    LOG2_E,
    exp2,
    fill,
    fma,
    load,
    load_bits,
    repeat,
    store,
    store_bits,
    total,
)
from flashnas.operators.recurrences.selective_scan import scan_of_inputs_step as by_torch

CHUNK = 32
ZERO = np.float32(0.0)


@compiled
def _forward(x, x_stride, half, dt, a_log2, b, c, state, y, kept, batch, length, channels, entries):
    """kept [batch, chunks, entries, channels]: receives the state before each chunk. `state` moves on."""
    size, chunks = entries * channels, (length + CHUNK - 1) // CHUNK
    for i in range(batch):
        for n in range(chunks):
            if len(kept):
                copy(state, i * size, kept, (i * chunks + n) * size, size)
            for j in range(0, channels, LANES):
                for t in range(i * length + n * CHUNK, i * length + min(length, (n + 1) * CHUNK)):
                    step_size = load(dt, t * channels + j)
                    u, out = step_size * load_bits(x, t * x_stride + j, half), fill(0.0)
                    for e in range(entries):
                        place = i * size + e * channels + j
                        decay = exp2(step_size * load(a_log2, e * channels + j))
                        now = fma(decay, load(state, place), repeat(b, t * entries + e) * u)
                        store(state, place, now)
                        out = fma(repeat(c, t * entries + e), now, out)
                    store(y, t * channels + j, out)


@compiled
def _backward(x, x_stride, half, dt, a_log2, b, c, kept, grad_y, grad_state, grad_x, grad_dt, grad_a_log2,
              grad_b, grad_c, room, batch, length, channels, entries):
    """grad_state: of the final state; becomes that of the first. grad_a_log2: added to.

    The names of scratch: decays and states [CHUNK (+ 1 with the state before), entries, 16], and the
    gradients of b and c [CHUNK, entries, 16 channels that are still to be summed].
    """
    size, chunks, line = entries * channels, (length + CHUNK - 1) // CHUNK, entries * LANES
    whole = CHUNK * line
    decays, states, room = room[:whole], room[whole:2 * whole + line], room[2 * whole + line:]
    wide_b, wide_c = room[:whole], room[whole:]
    for i in range(batch):
        for n in range(chunks - 1, -1, -1):
            first, tokens = i * length + n * CHUNK, min(CHUNK, length - n * CHUNK)
            clear(wide_b, tokens * line)
            clear(wide_c, tokens * line)
            for j in range(0, channels, LANES):
                for e in range(entries):
                    store(states, e * LANES, load(kept, (i * chunks + n) * size + e * channels + j))
                for t in range(tokens):
                    step_size = load(dt, (first + t) * channels + j)
                    u = step_size * load_bits(x, (first + t) * x_stride + j, half)
                    for e in range(entries):
                        place = t * line + e * LANES
                        decay = exp2(step_size * load(a_log2, e * channels + j))
                        store(decays, place, decay)
                        store(states, place + line, fma(decay, load(states, place),
                                                        repeat(b, (first + t) * entries + e) * u))
                for t in range(tokens - 1, -1, -1):
                    row = (first + t) * channels + j
                    step_size, value = load(dt, row), load_bits(x, (first + t) * x_stride + j, half)
                    u, grad = step_size * value, load(grad_y, row)
                    grad_u, grad_step = fill(0.0), fill(0.0)
                    for e in range(entries):
                        place, at = t * line + e * LANES, i * size + e * channels + j
                        a = e * channels + j
                        grad_now = fma(repeat(c, (first + t) * entries + e), grad, load(grad_state, at))
                        store(wide_c, place, fma(load(states, place + line), grad, load(wide_c, place)))
                        store(wide_b, place, fma(grad_now, u, load(wide_b, place)))
                        grad_u = fma(grad_now, repeat(b, (first + t) * entries + e), grad_u)
                        before = grad_now * load(decays, place)
                        store(grad_state, at, before)
                        share = before * load(states, place)  # of ln(decay) = dt a
                        grad_step = fma(share, load(a_log2, a), grad_step)
                        store(grad_a_log2, a, fma(share, step_size, load(grad_a_log2, a)))
                    store_bits(grad_x, row, grad_u * step_size, half)
                    store(grad_dt, row, fma(grad_u, value, grad_step / fill(LOG2_E)))
            for t in range(tokens):
                for e in range(entries):
                    grad_b[(first + t) * entries + e] = total(load(wide_b, t * line + e * LANES))
                    grad_c[(first + t) * entries + e] = total(load(wide_c, t * line + e * LANES))


class _CompiledScan(torch.autograd.Function):
    """The number of channels is a multiple of 16. b and c are contiguous float32."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                state_BNC: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, channels = x_BTC.shape
        entries = len(a_NC)
        ctx.sizes = batch, length, channels, entries
        dt_BTC, a_log2_NC = dt_BTC.contiguous(), (a_NC * float(LOG2_E)).contiguous()
        final_BNC = wide_copy(state_BNC)
        y_BTC = torch.empty(batch, length, channels)
        kept = torch.empty(batch, -(-length // CHUNK) if any(ctx.needs_input_grad) else 0, entries, channels)
        _forward(*rows(x_BTC), x_BTC.dtype == torch.bfloat16,
                 *map(flat, (dt_BTC, a_log2_NC, b_BTN, c_BTN, final_BNC, y_BTC, kept)), *ctx.sizes)
        ctx.save_for_backward(x_BTC, dt_BTC, a_log2_NC, b_BTN, c_BTN, kept)
        return y_BTC, final_BNC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        x_BTC, dt_BTC, a_log2_NC, b_BTN, c_BTN, kept = ctx.saved_tensors
        entries = ctx.sizes[-1]
        grad_y_BTC, grad_state_BNC = output_grads[0].contiguous(), wide_copy(output_grads[1])
        grad_x, grad_a = torch.empty(x_BTC.shape, dtype=x_BTC.dtype), torch.zeros(a_log2_NC.shape)
        grad_dt, grad_b, grad_c = (torch.empty(part.shape) for part in (dt_BTC, b_BTN, c_BTN))
        room = torch.empty((4 * CHUNK + 1) * entries * LANES)
        _backward(*rows(x_BTC), x_BTC.dtype == torch.bfloat16,
                  *map(flat, (dt_BTC, a_log2_NC, b_BTN, c_BTN, kept, grad_y_BTC, grad_state_BNC)),
                  bits(grad_x), *map(flat, (grad_dt, grad_a, grad_b, grad_c, room)), *ctx.sizes)
        return grad_x, grad_dt, grad_a, grad_b, grad_c, grad_state_BNC


def scan_of_inputs(x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor | None) -> tuple[Tensor, Tensor]:
    """`recurrences.selective_scan.scan_of_inputs`: x in float32 or bfloat16, everything else in float32."""
    batch, _, channels = x_BTC.shape
    if x_BTC.dtype != torch.bfloat16:
        x_BTC = x_BTC.float()
    if state_BNC is None:
        state_BNC = torch.zeros(batch, len(a_NC), channels)
    if more := -channels % LANES:
        x_BTC, dt_BTC, a_NC, state_BNC = (F.pad(part, (0, more)) for part in (x_BTC, dt_BTC, a_NC, state_BNC))
    b_BTN, c_BTN = b_BTN.float().contiguous(), c_BTN.float().contiguous()
    y, state = _CompiledScan.apply(x_BTC, dt_BTC, a_NC, b_BTN, c_BTN, state_BNC)
    return y[..., :channels], state[..., :channels]


def scan_of_inputs_step(x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
                        state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrences.selective_scan.scan_of_inputs_step` without gradients; the state is written in place. By
    torch if the number of channels is not a multiple of 16."""
    step = by_torch if x_BC.shape[1] % LANES else scan_step
    return step(x_BC, dt_BC, a_NC, b_BN, c_BN, state_BNC)
