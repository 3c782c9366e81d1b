"""Root-mean-square norms with and without a gate, and SwiGLU, compiled: one pass over memory forwards and
backwards.

The row is one vector that is normalised. Rows lie side by side within a token, as the heads of an output do;
tokens may be `stride` apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flashnas.operators.compiled.jit import bits, compiled, flat, rows
from flashnas.operators.compiled.vectors import (
    LANES,
    fill,
    fma,
    load,
    load_bits,
    sigmoid,
    store,
    store_bits,
    total,
)
from flashnas.operators.parts import fused

ZERO, ONE = np.float32(0.0), np.float32(1.0)
PLAIN, NORM_FIRST, GATE_FIRST = 0, 1, 2
FEW = 1 << 12


@compiled
def _forward(x, x_stride, x_half, gate, gate_stride, gate_half, weight, y, scale, room, mode, eps, tokens,
             heads, size, weights):
    """weight [weights, size]: row h takes weight h % weights. scale [tokens, heads]: receives 1 / rms.

    The output has the dtype of the gate where there is one. room [size]: scratch.
    """
    y_half = x_half if mode == PLAIN else gate_half
    for t in range(tokens):
        for h in range(heads):
            at, squares = t * x_stride + h * size, fill(0.0)
            for i in range(0, size, LANES):
                value = load_bits(x, at + i, x_half)
                if mode == GATE_FIRST:
                    open_ = load_bits(gate, t * gate_stride + h * size + i, gate_half)
                    value = value * open_ * sigmoid(open_)
                store(room, i, value)
                squares = fma(value, value, squares)
            factor = ONE / np.sqrt(total(squares) / np.float32(size) + eps)
            scale[t * heads + h] = factor
            row = (t * heads + h) * size
            for i in range(0, size, LANES):
                value = load(room, i) * fill(factor) * load(weight, h % weights * size + i)
                if mode == NORM_FIRST:
                    open_ = load_bits(gate, t * gate_stride + h * size + i, gate_half)
                    value = value * open_ * sigmoid(open_)
                store_bits(y, row + i, value, y_half)


@compiled
def _backward(x, x_stride, x_half, gate, gate_stride, gate_half, weight, scale, grad_y, grad_x, grad_gate,
              grad_weight, room, mode, tokens, heads, size, weights):
    """grad_weight: added to. room [4, size]: what is normalised, its gradient times weight, silu of the gate,
    and the gate's slope."""
    y_half = x_half if mode == PLAIN else gate_half
    for t in range(tokens):
        for h in range(heads):
            at, row, w, inner = t * x_stride + h * size, (t * heads + h) * size, h % weights * size, fill(0.0)
            factor = fill(scale[t * heads + h])
            for i in range(0, size, LANES):
                value, grad = load_bits(x, at + i, x_half), load_bits(grad_y, row + i, y_half)
                if mode != PLAIN:
                    open_ = load_bits(gate, t * gate_stride + h * size + i, gate_half)
                    share = sigmoid(open_)
                    activated, slope = open_ * share, share * fma(open_, fill(1.0) - share, fill(1.0))
                    if mode == NORM_FIRST:
                        through = grad * value * factor * load(weight, w + i) * slope
                        store_bits(grad_gate, row + i, through, gate_half)
                        grad = grad * activated
                    else:
                        store(room, 2 * size + i, activated)
                        store(room, 3 * size + i, slope * value)
                        value = value * activated
                store(grad_weight, w + i, fma(grad * value, factor, load(grad_weight, w + i)))
                grad = grad * load(weight, w + i)
                inner = fma(grad, value, inner)
                store(room, i, value)
                store(room, size + i, grad)
            mean = fill(total(inner) / np.float32(size)) * factor * factor
            for i in range(0, size, LANES):
                grad = (load(room, size + i) - load(room, i) * mean) * factor
                if mode == GATE_FIRST:
                    store_bits(grad_gate, row + i, grad * load(room, 3 * size + i), gate_half)
                    grad = grad * load(room, 2 * size + i)
                store_bits(grad_x, row + i, grad, x_half)


def _tokens(x: Tensor) -> Tensor:
    """[1 or B, T, H, D] of [.., D]; the heads are what lies next to each other."""
    return x.unsqueeze(2) if x.ndim == 3 else x if x.ndim == 4 else x.reshape(1, -1, 1, x.shape[-1])


class _Norm(torch.autograd.Function):
    """The last dimension is a multiple of 16; the weight, [D] or [heads, D], is float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor | None, weight: Tensor, eps: float, mode: int) -> Tensor:
        x_BTHD = _tokens(x)
        batch, length, heads, size = x_BTHD.shape
        gate_BTHD = x_BTHD if gate is None else _tokens(gate)
        ctx.sizes = mode, batch * length, heads, size, weight.numel() // size
        ctx.halves = x.dtype == torch.bfloat16, gate_BTHD.dtype == torch.bfloat16
        y, scale = torch.empty(x.shape, dtype=gate_BTHD.dtype), torch.empty(batch * length * heads)
        _forward(*rows(x_BTHD), ctx.halves[0], *rows(gate_BTHD), ctx.halves[1], flat(weight), bits(y),
                 flat(scale), flat(torch.empty(size)), mode, np.float32(eps), *ctx.sizes[1:])
        ctx.save_for_backward(x, gate, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, weight, scale = ctx.saved_tensors
        x_BTHD = _tokens(x)
        gate_BTHD = x_BTHD if gate is None else _tokens(gate)
        grad_x, grad_gate = torch.empty(x.shape, dtype=x.dtype), None
        if gate is not None:
            grad_gate = torch.empty(gate.shape, dtype=gate.dtype)
        grad_weight = torch.zeros(weight.shape)
        _backward(*rows(x_BTHD), ctx.halves[0], *rows(gate_BTHD), ctx.halves[1], flat(weight), flat(scale),
                  bits(grad_y.contiguous()), bits(grad_x), bits(grad_x if grad_gate is None else grad_gate),
                  flat(grad_weight), flat(torch.empty(4 * ctx.sizes[3])), *ctx.sizes)
        return grad_x, grad_gate, grad_weight, None, None


def normalise(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None, gate_first: bool = False,
              sigmoid: bool = False) -> Tensor:
    """`parts.fused.normalise` of x and gate in float32 or bfloat16; by torch where a size is not a multiple
    of 16."""
    if gate is not None and sigmoid:
        return normalise(x, weight, eps) * torch.sigmoid(gate.to(x.dtype))
    if weight.shape[-1] == 1:
        weight = weight.expand(*weight.shape[:-1], x.shape[-1])
    fits = x.shape[-1] % LANES == 0 and weight.shape[-1] == x.shape[-1] and weight.dtype == torch.float32
    # of a token or two torch's own kernel is faster
    single = not torch.is_grad_enabled() and x.numel() <= FEW
    fits = fits and all(part is None or part.dtype in (torch.float32, torch.bfloat16) for part in (x, gate))
    if single or not fits:
        return fused.normalise(x, weight, eps, gate, gate_first)
    mode = PLAIN if gate is None else GATE_FIRST if gate_first else NORM_FIRST
    y: Tensor = _Norm.apply(x, gate, weight.contiguous(), eps, mode)
    return y


@compiled
def _swiglu(x, half, y, tokens, size):
    for t in range(tokens):
        for i in range(0, size, LANES):
            gate, up = load_bits(x, 2 * t * size + i, half), load_bits(x, (2 * t + 1) * size + i, half)
            store_bits(y, t * size + i, gate * sigmoid(gate) * up, half)


@compiled
def _swiglu_backward(x, half, grad_y, grad_x, tokens, size):
    for t in range(tokens):
        for i in range(0, size, LANES):
            gate, up = load_bits(x, 2 * t * size + i, half), load_bits(x, (2 * t + 1) * size + i, half)
            grad, share = load_bits(grad_y, t * size + i, half), sigmoid(gate)
            slope = share * fma(gate, fill(1.0) - share, fill(1.0))
            store_bits(grad_x, 2 * t * size + i, grad * up * slope, half)
            store_bits(grad_x, (2 * t + 1) * size + i, grad * gate * share, half)


class _CompiledSwiGLU(torch.autograd.Function):
    """The halves of the last dimension are multiples of 16."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        size = gate_up.shape[-1] // 2
        y = torch.empty(*gate_up.shape[:-1], size, dtype=gate_up.dtype)
        _swiglu(bits(gate_up), y.dtype == torch.bfloat16, bits(y), y.numel() // size, size)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        gate_up, = ctx.saved_tensors
        grad, size = torch.empty_like(gate_up), grad_y.shape[-1]
        _swiglu_backward(bits(gate_up), gate_up.dtype == torch.bfloat16, bits(grad_y.contiguous()),
                         bits(grad), grad_y.numel() // size, size)
        return grad


def swiglu(gate_up: Tensor) -> Tensor:
    """`parts.fused.swiglu` in float32 or bfloat16; by torch where sizes are not multiples of 16."""
    single = not torch.is_grad_enabled() and gate_up.numel() <= FEW
    if single or gate_up.shape[-1] % (2 * LANES) or gate_up.dtype not in (torch.float32, torch.bfloat16):
        return fused.swiglu(gate_up)
    y: Tensor = _CompiledSwiGLU.apply(gate_up)
    return y
