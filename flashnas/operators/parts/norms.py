"""Root-mean-square and l2 norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.parts.numerics import state_dtype
from flashnas.operators.spec import NORM_EPS

L2_EPS = 1e-6


def rms_normalise(x: Tensor, eps: float = NORM_EPS) -> Tensor:
    """x / rms(x) over the last dimension, computed in float32 at least, returned in x's dtype."""
    wide = x.to(state_dtype(x.dtype))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """torch's norm, in x's dtype also under autocast; it computes in float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, x.shape[-1:], None if weight is None else weight.to(x.dtype), eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight, arXiv 1910.07467."""

    def __init__(self, size: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def reference(self, x: Tensor) -> Tensor:
        """The norm of a float64 tensor, in float64."""
        return rms_normalise(x, self.eps) * self.weight.double()

    def of_gated(self, x: Tensor, gate: Tensor, groups: int) -> Tensor:
        """The norm of x silu(gate), computed in x's dtype, returned in gate's; each of the groups
        of the last dimension is normalised alone."""
        gated = (x * F.silu(gate.to(x.dtype))).unflatten(-1, (groups, -1))
        return (rms_norm(gated, None, self.eps).flatten(-2) * self.weight.to(x.dtype)).to(
            gate.dtype
        )


def l2_normalise(x: Tensor, eps: float = L2_EPS) -> Tensor:
    """x / sqrt(|x|^2 + eps) over the last dimension, as fla and Qwen3-Next normalise queries and
    keys.
    """
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def l2_norm(x: Tensor, eps: float = L2_EPS) -> Tensor:
    """`l2_normalise` by torch's norm: |x| = sqrt(dim) rms(x); computed in float32 at least, in x's
    dtype.
    """
    dim = x.shape[-1]
    return rms_norm(x, None, eps / dim) * dim**-0.5
