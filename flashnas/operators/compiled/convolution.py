"""The short causal convolution with or without silu, compiled; in the signature of parts/convolution.py.

16 channels at a time: taps, inputs and gradients of the last tokens stay in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashnas.operators.compiled.jit import bits, compiled, flat, ready, rows, writable
from flashnas.operators.compiled.tiles import clear
from flashnas.operators.compiled.vectors import (
    LANES,
    fill,
    fma,
    load,
    load_bits,
    sigmoid,
    spread,
    store,
    store_bits,
)
from flashnas.operators.parts.convolution import short_convolution as by_torch
from flashnas.operators.parts.convolution import short_convolution_step as step_by_torch

TAPS = 4  # fewer are taps of 0
BLOCK = 64  # tokens for which all channels are taken, so that their rows stay in the cache


@compiled
def _input(x, x_stride, before, half, channels, length, b, t, j):
    """16 channels of input t of sequence b; those from -3 to -1 are in `before`."""
    if t < 0:
        return load_bits(before, (3 * b + 3 + t) * channels + j, half)
    return load_bits(x, (b * length + t) * x_stride + j, half)


@compiled
def _last_inputs(x, x_stride, before, half, channels, length, b, t, j):
    """The three before input t."""
    return (_input(x, x_stride, before, half, channels, length, b, t - 3, j),
            _input(x, x_stride, before, half, channels, length, b, t - 2, j),
            _input(x, x_stride, before, half, channels, length, b, t - 1, j))


@compiled
def _taps(weight, channels, j):
    return (load(weight, j), load(weight, channels + j), load(weight, 2 * channels + j),
            load(weight, 3 * channels + j))


@compiled
def _forward(x, x_stride, before, half, weight, bias, silu, y, batch, length, channels):
    """weight [4, channels]; before [batch, 3, channels], the inputs before x."""
    for b in range(batch):
        for start in range(0, length, BLOCK):
            for j in range(0, channels, LANES):
                w0, w1, w2, w3 = _taps(weight, channels, j)
                constant = load(bias, j)
                x0, x1, x2 = _last_inputs(x, x_stride, before, half, channels, length, b, start, j)
                for t in range(start, min(length, start + BLOCK)):
                    x3 = load_bits(x, (b * length + t) * x_stride + j, half)
                    z = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, constant))))
                    if silu:
                        z = z * sigmoid(z)
                    store_bits(y, (b * length + t) * channels + j, z, half)
                    x0, x1, x2 = x1, x2, x3


@compiled
def _backward(x, x_stride, before, half, weight, bias, silu, grad_y, grad_x, grad_before, grad_weight,
              grad_bias, later, batch, length, channels):
    """grad_weight and grad_bias are added to. later [3, channels]: scratch, gradients of z of the three
    tokens after a block, where z is what silu takes. From the last token to the first."""
    for b in range(batch):
        clear(later, 3 * channels)
        for start in range((length - 1) // BLOCK * BLOCK, -1, -BLOCK):
            end = min(length, start + BLOCK)
            for j in range(0, channels, LANES):
                w0, w1, w2, w3 = _taps(weight, channels, j)
                constant, nothing = load(bias, j), fill(0.0)
                sum_0, sum_1, sum_2, sum_3, sum_of_grads = nothing, nothing, nothing, nothing, nothing
                later_1, later_2 = load(later, j), load(later, channels + j)
                later_3 = load(later, 2 * channels + j)
                x1, x2, x3 = _last_inputs(x, x_stride, before, half, channels, length, b, end, j)
                for t in range(end - 1, start - 1, -1):
                    x0 = _input(x, x_stride, before, half, channels, length, b, t - 3, j)
                    z = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, constant))))
                    place = (b * length + t) * channels + j
                    grad = load_bits(grad_y, place, half)
                    if silu:
                        gate = sigmoid(z)
                        grad = grad * gate * fma(z, fill(1.0) - gate, fill(1.0))
                    sum_0, sum_1, sum_2, sum_3 = (fma(grad, x0, sum_0), fma(grad, x1, sum_1),
                                                  fma(grad, x2, sum_2), fma(grad, x3, sum_3))
                    sum_of_grads = sum_of_grads + grad
                    store_bits(grad_x, place, fma(w3, grad, fma(w2, later_1, fma(w1, later_2, w0 * later_3))),
                               half)
                    later_1, later_2, later_3 = grad, later_1, later_2
                    x1, x2, x3 = x0, x1, x2
                store(later, j, later_1)
                store(later, channels + j, later_2)
                store(later, 2 * channels + j, later_3)
                store(grad_weight, j, load(grad_weight, j) + sum_0)
                store(grad_weight, channels + j, load(grad_weight, channels + j) + sum_1)
                store(grad_weight, 2 * channels + j, load(grad_weight, 2 * channels + j) + sum_2)
                store(grad_weight, 3 * channels + j, load(grad_weight, 3 * channels + j) + sum_3)
                store(grad_bias, j, load(grad_bias, j) + sum_of_grads)
                if start == 0:
                    first = 3 * b * channels + j
                    store_bits(grad_before, first + 2 * channels,
                               fma(w2, later_1, fma(w1, later_2, w0 * later_3)), half)
                    store_bits(grad_before, first + channels, fma(w1, later_1, w0 * later_2), half)
                    store_bits(grad_before, first, w0 * later_1, half)


class _CompiledConvolution(torch.autograd.Function):
    """TAPS taps. The number of channels is a multiple of 16; x and the state have one dtype, weight [K, C]
    and bias are float32."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, before_BTC: Tensor, weight_KC: Tensor, bias_C: Tensor,
                silu: bool) -> Tensor:
        ctx.sizes, ctx.silu = x_BTC.shape, silu
        y_BTC = torch.empty(x_BTC.shape, dtype=x_BTC.dtype)
        before_BTC, weight_KC = before_BTC.contiguous(), weight_KC.contiguous()
        _forward(*rows(x_BTC), bits(before_BTC), x_BTC.dtype == torch.bfloat16, flat(weight_KC), flat(bias_C),
                 silu, bits(y_BTC), *ctx.sizes)
        ctx.save_for_backward(x_BTC, before_BTC, weight_KC, bias_C)
        return y_BTC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_BTC: Tensor) -> tuple[Tensor | None, ...]:
        x_BTC, before_BTC, weight_KC, bias_C = ctx.saved_tensors
        grads = torch.empty(x_BTC.shape, dtype=x_BTC.dtype), torch.empty_like(before_BTC)
        wide = torch.zeros(weight_KC.shape), torch.zeros(bias_C.shape)
        _backward(*rows(x_BTC), bits(before_BTC), x_BTC.dtype == torch.bfloat16, flat(weight_KC),
                  flat(bias_C), ctx.silu, bits(grad_y_BTC.contiguous()), *map(bits, grads), *map(flat, wide),
                  flat(torch.empty(3, x_BTC.shape[2])), *ctx.sizes)
        return *grads, *wide, None


def short_convolution(x_BTC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                      silu: bool = True) -> tuple[Tensor, Tensor]:
    """`parts.convolution.short_convolution` of up to TAPS taps; of x in float32 or bfloat16, by torch
    otherwise."""
    if x_BTC.dtype not in (torch.float32, torch.bfloat16):
        return by_torch(x_BTC, state_BTC, weight, bias, silu)
    length, channels, kept = x_BTC.shape[1], x_BTC.shape[2], state_BTC.shape[1]
    before_BTC = state_BTC.to(x_BTC.dtype)
    after_BTC = x_BTC[:, length - kept:] if length >= kept else torch.cat([before_BTC[:, length:], x_BTC], 1)
    weight_KC, bias = weight.float().T, weight.new_zeros(channels).float() if bias is None else bias.float()
    more, fewer = -channels % LANES, TAPS - 1 - kept
    if more:
        x_BTC, bias = F.pad(x_BTC, (0, more)), F.pad(bias, (0, more))
    if more or fewer:
        before_BTC, weight_KC = F.pad(before_BTC, (0, more, fewer, 0)), F.pad(weight_KC, (0, more, fewer, 0))
    y_BTC = _CompiledConvolution.apply(x_BTC, before_BTC, weight_KC, bias, silu)
    return y_BTC[..., :channels], after_BTC


@compiled
def _step(x, x_stride, state, half, weight, bias, silu, y, batch, channels, taps):
    """One token; all tensors by address. weight: [channels, taps]; bias may be 0. `state` moves on."""
    last = taps - 1
    for b in range(batch):
        for j in range(0, channels, LANES):
            now, place = load_bits(x, b * x_stride + j, half), b * last * channels + j
            z = now * spread(weight, j * taps + last, taps, 16, 1)
            if bias:
                z = z + load(bias, j)
            for n in range(last):
                before = load_bits(state, place, half)
                z = fma(spread(weight, j * taps + n, taps, 16, 1), before, z)
                if n:
                    store_bits(state, place - channels, before, half)
                place += channels
            if last:
                store_bits(state, place - channels, now, half)
            if silu:
                z = z * sigmoid(z)
            store_bits(y, b * channels + j, z, half)


def short_convolution_step(x_BC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                           silu: bool = True) -> tuple[Tensor, Tensor]:
    """`parts.convolution.short_convolution_step` without gradients; the state is written in place. By torch
    in other dtypes than float32 and bfloat16, and of channels that are not a multiple of 16."""
    (batch, channels), taps = x_BC.shape, weight.shape[1]
    if x_BC.dtype not in (torch.float32, torch.bfloat16) or channels % LANES:
        return step_by_torch(x_BC, state_BTC, weight, bias, silu)
    state_BTC, y_BC = writable(state_BTC.to(x_BC.dtype)), torch.empty(x_BC.shape, dtype=x_BC.dtype)
    x_BC = x_BC if x_BC.stride(1) == 1 else x_BC.contiguous()
    weight, bias = weight.float().contiguous(), None if bias is None else ready(bias)
    _step(x_BC.data_ptr(), x_BC.stride(0), state_BTC.data_ptr(), x_BC.dtype == torch.bfloat16,
          weight.data_ptr(), 0 if bias is None else bias.data_ptr(), silu, y_BC.data_ptr(), batch, channels,
          taps)
    return y_BC, state_BTC
