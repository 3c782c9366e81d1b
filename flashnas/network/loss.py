"""The loss of a language model without its logits: a linear head and the cross-entropy as one
autograd node.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# logits at once: 8 MB of float32, which the caches of a CPU hold; on a GPU 1 GB, since each chunk
# reads the whole head
LOGITS_PER_CHUNK, LOGITS_ON_GPU = 1 << 21, 1 << 28


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy of x @ weight^T, in nats, in float32 at least; NaN if no row counts.
    Gradients are taken slice by slice in the forward pass, so that the logits of a large vocabulary
    never exist at once.

    Args:
        x_ND: hidden states after the final norm.
        weight_VD: the head.
        targets_N: token numbers; negative ones mark rows that do not count.
    """
    loss: Tensor = _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Rows with a negative target are divided by infinity, which needs no extra pass."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        kind = x_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
        wide = torch.promote_types(dtype, torch.float32)
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        with torch.autocast(kind, enabled=False):
            x, weight = x_ND.to(dtype), weight_VD.to(dtype)
            total = torch.zeros((), dtype=wide, device=x.device)
            grad_x = torch.empty_like(x) if need_x else None
            grad_weight = (
                torch.zeros(weight.shape, dtype=wide, device=x.device) if need_weight else None
            )
            rows = max(1, (LOGITS_PER_CHUNK if x.is_cpu else LOGITS_ON_GPU) // len(weight))
            counts_N = targets_N >= 0
            count = counts_N.sum()
            divisor_N1 = torch.where(counts_N, count, math.inf).to(wide).unsqueeze(1)
            targets_N = targets_N.clamp(min=0)
            for part in range(0, len(x), rows):
                now = slice(part, part + rows)
                log_p, targets_N1 = (
                    (x[now] @ weight.T).log_softmax(-1, dtype=wide),
                    targets_N[now].unsqueeze(1),
                )
                total -= (
                    log_p.gather(1, targets_N1).masked_fill_(~counts_N[now].unsqueeze(1), 0).sum()
                )
                if not (need_x or need_weight):
                    continue
                # p - 1 at the target, p elsewhere
                minus_one_N1 = log_p.new_full(targets_N1.shape, -1.0)
                grad = (
                    log_p.exp_()
                    .scatter_add_(1, targets_N1, minus_one_N1)
                    .div_(divisor_N1[now])
                    .to(dtype)
                )
                if grad_x is not None:
                    torch.mm(grad, weight, out=grad_x[now])
                if grad_weight is not None:
                    grad_weight += grad.T @ x[now]
        ctx.save_for_backward(grad_x, grad_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        return (
            None if grad_x is None else (grad_x * grad).to(x_dtype),
            None if grad_weight is None else (grad_weight * grad).to(weight_dtype),
            None,
        )
