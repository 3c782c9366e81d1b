"""Losses of a language model without its logits: a linear head and the loss as one autograd node."""

from typing import Any

import torch
from torch import Tensor

# logits at once: 8 MB of float32, which the caches of a CPU hold; on a GPU 1 GB, since each chunk
# reads the whole head
LOGITS_PER_CHUNK, LOGITS_ON_GPU = 1 << 21, 1 << 28
ROWS_PER_CHUNK = 128  # at least, for one pass over the gradient of a large head


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy of x @ weight^T, in nats, in float32 at least; NaN if no row counts.
    Gradients are taken slice by slice in the forward pass, so that the logits of a large vocabulary
    never exist at once.

    Args:
        x_ND: hidden states after the final norm.
        weight_VD: the head.
        targets_N: token numbers; negative ones mark rows that do not count.
    """
    return _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        kind = x_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
        wide = torch.promote_types(dtype, torch.float32)
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        counts_N1 = (targets_N >= 0).unsqueeze(1)
        shares_N1 = counts_N1.to(wide) / counts_N1.sum()
        targets_N1 = targets_N.clamp(min=0).unsqueeze(1)
        trained = any(ctx.needs_input_grad)
        with torch.autocast(kind, enabled=False):
            x, weight = x_ND.to(dtype), weight_VD.to(dtype)
            total = x.new_zeros((), dtype=wide)
            grad_x = torch.empty_like(x)
            grad_weight = weight.new_zeros(weight.shape if trained else (0,), dtype=wide)
            logits_at_once = LOGITS_PER_CHUNK if x.is_cpu else LOGITS_ON_GPU
            rows = max(ROWS_PER_CHUNK, logits_at_once // len(weight))
            for part in range(0, len(x), rows):
                now = slice(part, part + rows)
                log_p = (x[now] @ weight.T).log_softmax(-1, dtype=wide)
                targets, shares = targets_N1[now], shares_N1[now]
                total -= (log_p.gather(1, targets) * shares).sum()
                if trained:
                    # p - 1 at the target, p elsewhere
                    p = log_p.exp_().scatter_add_(1, targets, -torch.ones_like(shares))
                    grad = p.mul_(shares).to(dtype)
                    torch.mm(grad, weight, out=grad_x[now])
                    grad_weight += grad.T @ x[now]
        ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        return (grad_x * grad).to(x_dtype), (grad_weight * grad).to(weight_dtype), None
