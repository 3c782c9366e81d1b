"""Chunked recurrences: cutting time into chunks, carrying matrix states from chunk to chunk, inverting I + L.

Tensors of a recurrence are laid out chunks first, [N, B*H, C, dim], so that each chunk is one contiguous batch of
matrices and all chunks together are one batch too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def to_chunks(x_BTHK: Tensor, chunk: int) -> Tensor:
    """[B, T, H, K] -> [N, B*H, chunk, K], padded with zeros."""
    batch, tokens, heads, dim = x_BTHK.shape
    count = -(-tokens // chunk)
    if count * chunk != tokens:
        x_BTHK = F.pad(x_BTHK, (0, 0, 0, 0, 0, count * chunk - tokens))
    x = x_BTHK.reshape(batch, count, chunk, heads, dim).permute(1, 0, 3, 2, 4)
    return x.reshape(count, batch * heads, chunk, dim)


def from_chunks(y: Tensor, batch: int, tokens: int) -> Tensor:
    """[N, B*H, chunk, V] -> [B, T, H, V], the padding cut off."""
    count, batch_heads, chunk, dim = y.shape
    y = y.view(count, batch, batch_heads // batch, chunk, dim).permute(1, 0, 3, 2, 4)
    return y.reshape(batch, count * chunk, batch_heads // batch, dim)[:, :tokens]


class _DiagonalScan(torch.autograd.Function):
    """states[n + 1] = decay[n] * states[n] + update[n]; decay broadcasts against a state."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, update: Tensor, state: Tensor) -> Tensor:
        states = update.new_empty(len(update) + 1, *update.shape[1:])
        states[0] = state
        for n in range(len(update)):
            torch.addcmul(update[n], decay[n], states[n], out=states[n + 1])
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states = ctx.saved_tensors
        grads = torch.empty_like(states)
        grads[-1] = grad_states[-1]
        for n in range(len(states) - 2, -1, -1):
            torch.addcmul(grad_states[n], decay[n], grads[n + 1], out=grads[n])
        grad_decay = (grads[1:] * states[:-1]).sum_to_size(decay.shape)
        return grad_decay, grads[1:], grads[0]


class _MatrixScan(torch.autograd.Function):
    """states[n + 1] = transition[n] @ states[n] + update[n]."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, update: Tensor, state: Tensor) -> Tensor:
        states = update.new_empty(len(update) + 1, *update.shape[1:])
        states[0] = state
        for n in range(len(update)):
            torch.baddbmm(update[n], transition[n], states[n], out=states[n + 1])
        ctx.save_for_backward(transition, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, states = ctx.saved_tensors
        grads = torch.empty_like(states)
        grads[-1] = grad_states[-1]
        for n in range(len(states) - 2, -1, -1):
            torch.baddbmm(grad_states[n], transition[n].mT, grads[n + 1], out=grads[n])
        return grads[1:] @ states[:-1].mT, grads[1:], grads[0]


def diagonal_scan(decay: Tensor, update: Tensor, state: Tensor) -> Tensor:
    """All states [N + 1, B*H, K, V] of `s = decay * s + update`, the initial one first; decay [N, B*H, K or 1, 1]."""
    states: Tensor = _DiagonalScan.apply(decay, update, state)
    return states


def matrix_scan(transition: Tensor, update: Tensor, state: Tensor) -> Tensor:
    """All states [N + 1, B*H, K, V] of `s = transition @ s + update`, the initial one first."""
    states: Tensor = _MatrixScan.apply(transition, update, state)
    return states


class _UnitLowerInverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return (-(inverse.mT @ grad @ inverse.mT)).tril_(-1)


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + lower)^-1 for strictly lower triangular matrices [..., C, C]."""
    inverse: Tensor = _UnitLowerInverse.apply(lower)
    return inverse


def decay_differences(cumulative: Tensor) -> Tensor:
    """exp(cumulative_i - cumulative_j) for j <= i, else 0: [..., C] -> [..., C, C]; never exp of a positive number."""
    difference = cumulative.unsqueeze(-1) - cumulative.unsqueeze(-2)
    size = cumulative.shape[-1]
    above = torch.ones(size, size, dtype=torch.bool, device=cumulative.device).triu_(1)
    return difference.masked_fill(above, -torch.inf).exp()
