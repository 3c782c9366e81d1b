"""Losses of a language model without its logits: a linear head and the loss as one autograd node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# logits at once: 8 MB of float32, which the caches of a CPU hold; on a GPU 1 GB, since each chunk
# reads the whole head
LOGITS_PER_CHUNK, LOGITS_ON_GPU = 1 << 21, 1 << 28
ROWS_PER_CHUNK = 128  # at least, for one pass over the gradient of a large head

# logits [n, V] of a slice of the rows -> its part of the loss, to be divided by the divisor, and a
# function that computes the gradient of the divided loss by the logits
LossOfSlice = Callable[[Tensor, slice], tuple[Tensor, Callable[[], Tensor]]]


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy of x @ weight^T, in nats, in float32 at least; NaN if no row counts.
    Gradients are taken slice by slice in the forward pass, so that the logits of a large vocabulary
    never exist at once.

    Args:
        x_ND: hidden states after the final norm.
        weight_VD: the head.
        targets_N: token numbers; negative ones mark rows that do not count.
    """
    of_slice, count = _cross_entropy(targets_N)
    return _LinearLoss.apply(x_ND, weight_VD, of_slice, count)


def _cross_entropy(targets_N: Tensor) -> tuple[LossOfSlice, Tensor]:
    """The summed cross-entropy of a slice with the gradient of the mean, and the rows that count."""
    counts_N = targets_N >= 0
    count = counts_N.sum()
    # rows that do not count are divided by infinity, which needs no extra pass
    divisor_N1 = torch.where(counts_N, count, math.inf).unsqueeze(1)
    targets_N1 = targets_N.clamp(min=0).unsqueeze(1)

    def of_slice(logits: Tensor, now: slice) -> tuple[Tensor, Callable[[], Tensor]]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_p = logits.log_softmax(-1, dtype=wide)
        targets = targets_N1[now]
        total = log_p.gather(1, targets).masked_fill_(~counts_N[now].unsqueeze(1), 0).sum()

        def gradient() -> Tensor:  # p - 1 at the target, p elsewhere
            minus_one_N1 = log_p.new_full(targets.shape, -1.0)
            p = log_p.exp_().scatter_add_(1, targets, minus_one_N1)
            return p.div_(divisor_N1[now].to(wide))

        return -total, gradient

    return of_slice, count


def _product_dtype(x: Tensor) -> torch.dtype:
    """Of a matrix product with x, by autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, of_slice: LossOfSlice, divisor: Tensor | int
    ) -> Tensor:
        dtype = _product_dtype(x_ND)
        wide = torch.promote_types(dtype, torch.float32)
        need_x, need_weight, *_ = ctx.needs_input_grad
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        with torch.autocast(x_ND.device.type, enabled=False):
            x, weight = x_ND.to(dtype), weight_VD.to(dtype)
            total = torch.zeros((), dtype=wide, device=x.device)
            grad_x = torch.empty_like(x) if need_x else None
            grad_weight = (
                torch.zeros(weight.shape, dtype=wide, device=x.device) if need_weight else None
            )
            logits_at_once = LOGITS_PER_CHUNK if x.is_cpu else LOGITS_ON_GPU
            rows = max(ROWS_PER_CHUNK, logits_at_once // len(weight))
            for part in range(0, len(x), rows):
                now = slice(part, part + rows)
                loss, gradient = of_slice(x[now] @ weight.T, now)
                total += loss
                if not (need_x or need_weight):
                    continue
                grad = gradient().to(dtype)
                if grad_x is not None:
                    torch.mm(grad, weight, out=grad_x[now])
                if grad_weight is not None:
                    grad_weight += grad.T @ x[now]
        ctx.save_for_backward(grad_x, grad_weight)
        return total / divisor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        return (
            None if grad_x is None else (grad_x * grad).to(x_dtype),
            None if grad_weight is None else (grad_weight * grad).to(weight_dtype),
            None,
            None,
        )
