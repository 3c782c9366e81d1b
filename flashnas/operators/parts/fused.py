"""Chains of pointwise work as single autograd nodes with hand-written gradients: fewer passes over memory,
less kept.

On a CPU a small network spends as long here as in its matrix products if every step is a node of its own.
Each docstring has the plain formula; tests compare the gradients with it in float64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.parts.numerics import LOG2_E


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; in float32 at least, returned in x's dtype.
    """
    # mixed precision: still one kernel
    if x.is_cuda and x.shape[-1:] == weight.shape and x.dtype != weight.dtype:
        with torch.autocast("cuda", enabled=False):
            return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    if x.dtype == weight.dtype and x.shape[-1:] == weight.shape and _torch_normalises(x):
        return F.rms_norm(x, weight.shape, weight, eps)
    if not torch.is_grad_enabled():
        return (x * _reciprocal_rms(x, eps)).mul_(weight).to(x.dtype)
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


def _torch_normalises(x: Tensor) -> bool:
    """Whether torch's own norm does: one kernel on CUDA; on a CPU fewer calls for a token or two (10 us
    against 14 at width 256), but ten times the time for a thousand."""
    return x.is_cuda or (not torch.is_grad_enabled() and x.numel() <= 1 << 12)


def _reciprocal_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, kept; in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rstd = _reciprocal_rms(x, eps)
        ctx.save_for_backward(x, weight, rstd)
        return (x * rstd).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, rstd = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        scaled = grad * rstd  # [.., D], wide
        grad_weight = grad_x = None
        product = scaled * x
        if need_weight:
            grad_weight = product.sum_to_size(weight.shape).to(weight.dtype)
        if need_x:
            # dx = rstd (w g - x rstd^2 mean(w g x))
            inner = product.mul_(weight).sum(-1, keepdim=True).mul_(rstd.square()).mul_(-1 / x.shape[-1])
            grad_x = scaled.mul_(weight).addcmul_(x.to(scaled.dtype), inner).to(x.dtype)
        return grad_x, grad_weight, None


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """rms_norm(x, weight, eps) * silu(gate) of [.., H, V]; in x's dtype, returned in gate's."""
    activated = F.silu(gate.to(x.dtype))
    if not torch.is_grad_enabled():
        return (x * _reciprocal_rms(x, eps)).mul_(weight).mul_(activated).to(gate.dtype)
    return (rms_norm(x, weight, eps) * activated).to(gate.dtype)


def rms_norm_of_gated(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """rms_norm(x * silu(gate), weight, eps) of [.., D], weight [D], or of groups [.., G, D], weight [G, D];
    computed in x's dtype, returned in gate's."""
    gated = x * F.silu(gate.to(x.dtype))
    if not torch.is_grad_enabled():
        return gated.mul_(_reciprocal_rms(gated, eps)).mul_(weight).to(gate.dtype)
    return rms_norm(gated, weight, eps).to(gate.dtype)


def normalise(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None, gate_first: bool = False,
              sigmoid: bool = False) -> Tensor:
    """The norm of an operator: `rms_norm`, times sigmoid(gate) if `sigmoid`; or with a gate `gated_rms_norm`
    or (gate_first) `rms_norm_of_gated`."""
    if gate is None:
        return rms_norm(x, weight, eps)
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # what a library's core puts out in half precision
    if sigmoid:
        return rms_norm(x, weight, eps) * torch.sigmoid(gate.to(x.dtype))
    return rms_norm_of_gated(x, gate, weight, eps) if gate_first else gated_rms_norm(x, gate, weight, eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for the two halves of the last dimension."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)
    y: Tensor = _SwiGLU.apply(gate_up)
    return y


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)  # an exponential costs more than memory does
        return activated * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        grad_both = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_both.chunk(2, -1)
        torch.mul(activated, grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_both


def softmax_(logits_NV: Tensor, targets_N1: Tensor, shares_N1: Tensor,
             gradient: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row, and its gradient times the row's share; both in float32 at least, inside.

    Args:
        logits_NV: are overwritten.
        targets_N1: token numbers.
        shares_N1: factors of the gradients.
        gradient: whether it is needed.

    Returns:
        The losses [N, 1], and the gradient [N, V] in the dtype of the logits.
    """
    wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    highest_N1, wanted_N1 = wide_NV.amax(-1, keepdim=True), wide_NV.gather(1, targets_N1)
    # exp by powers of two: torch's exp2 takes a third of the time of its exp on a CPU
    powers_NV = torch.add(highest_N1 * -LOG2_E, wide_NV, alpha=LOG2_E, out=wide_NV).exp2_()
    sums_N1 = powers_NV.sum(-1, keepdim=True)
    losses_N1 = highest_N1 + sums_N1.log() - wanted_N1
    if gradient:
        powers_NV.mul_(shares_N1 / sums_N1).scatter_add_(1, targets_N1, -shares_N1)
    return losses_N1, powers_NV.to(logits_NV.dtype)


def convolution_silu(history_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor | None,
                     silu: bool = True) -> Tensor:
    """silu(y) with y_t = bias + sum_k weight_k history_{t + k}: [B, T + K - 1, C] -> [B, T, C]; y itself
    without silu."""
    y: Tensor = _ConvolutionSilu.apply(history_BTC, weight_CK.to(history_BTC.dtype),
                                       None if bias_C is None else bias_C.to(history_BTC.dtype), silu)
    return y


class _ConvolutionSilu(torch.autograd.Function):
    """S is T + K - 1, the tokens of the history."""

    @staticmethod
    def forward(ctx: Any, history_BSC: Tensor, weight_CK: Tensor, bias_C: Tensor | None,
                silu: bool) -> Tensor:
        by_library = _library_convolves(history_BSC)
        y_BTC = (_convolved_by_library(history_BSC, weight_CK, bias_C, 0) if by_library
                 else _convolved(history_BSC, weight_CK, bias_C))
        ctx.save_for_backward(history_BSC, weight_CK, y_BTC)
        ctx.has_bias, ctx.by_library, ctx.silu = bias_C is not None, by_library, silu
        return F.silu(y_BTC) if silu else y_BTC

    @staticmethod
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        history_BSC, weight_CK, y_BTC = ctx.saved_tensors
        tokens, last = y_BTC.shape[1], weight_CK.shape[1] - 1
        grad_y_BTC = torch.ops.aten.silu_backward(grad_BTC, y_BTC) if ctx.silu else grad_BTC
        if ctx.by_library:
            grad_history_BSC = _convolved_by_library(grad_y_BTC, weight_CK.flip(1), None, last)
        else:
            grad_history_BSC = _convolved(F.pad(grad_y_BTC, (0, 0, last, last)), weight_CK.flip(1), None)
        wide = torch.promote_types(history_BSC.dtype, torch.float32)
        # faster, in bfloat16, than to convert each product
        grad_wide_BTC, history_wide_BSC = grad_y_BTC.to(wide), history_BSC.to(wide)
        grad_taps_KC = torch.empty(last + 1, weight_CK.shape[0], dtype=wide, device=weight_CK.device)
        product_BTC = torch.empty_like(grad_wide_BTC)
        for k in range(last + 1):
            torch.mul(grad_wide_BTC, history_wide_BSC[:, k:k + tokens], out=product_BTC)
            torch.sum(product_BTC, (0, 1), out=grad_taps_KC[k])
        grad_bias_C = grad_y_BTC.sum((0, 1)) if ctx.has_bias else None
        return grad_history_BSC, grad_taps_KC.T.to(weight_CK.dtype), grad_bias_C, None


def _convolved(history_BSC: Tensor, weight_CK: Tensor, bias_C: Tensor | None) -> Tensor:
    taps_KC = weight_CK.T.contiguous()
    tokens = history_BSC.shape[1] - len(taps_KC) + 1
    y_BTC = history_BSC[:, :tokens] * taps_KC[0]
    for k in range(1, len(taps_KC)):
        y_BTC.addcmul_(history_BSC[:, k:k + tokens], taps_KC[k])
    return y_BTC if bias_C is None else y_BTC.add_(bias_C)


def _library_convolves(history: Tensor) -> bool:
    """Whether oneDNN does; on a CPU it takes half the time of `_convolved`, in bfloat16 a quarter."""
    return (history.device.type == "cpu" and history.dtype in (torch.float32, torch.bfloat16)
            and torch.backends.mkldnn.is_available())


def _convolved_by_library(x_BTC: Tensor, weight_CK: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    image_BC1T, kernel = x_BTC.mT.unsqueeze(2), weight_CK[:, None, None].contiguous()  # channels last
    y = torch.conv2d(image_BC1T, kernel, bias, padding=(0, padding), groups=len(kernel))
    return y.squeeze(2).mT
