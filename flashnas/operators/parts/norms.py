"""Root-mean-square and l2 norms."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.backends.library import Function
from flashnas.operators.parts.fused import normalise, rms_norm
from flashnas.operators.parts.numerics import cached_table, state_dtype
from flashnas.operators.roles import Declared, Role
from flashnas.operators.spec import NORM_EPS


def rms_normalise(x: Tensor, eps: float = NORM_EPS) -> Tensor:
    """x / rms(x) over the last dimension, computed in float32 at least, returned in x's dtype."""
    wide = x.to(state_dtype(x.dtype))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class RMSNorm(Declared):
    """Root-mean-square norm with a weight, arXiv 1910.07467."""

    roles: ClassVar = {"weight": Role.NORM}

    def __init__(self, size: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.core = Core("norm", "norm", (normalise, normalise), raw=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.core.of(x).forward(x, self.weight, self.eps)
        return y

    def reference(self, x: Tensor) -> Tensor:
        """The norm of a float64 tensor, in float64."""
        return rms_normalise(x, self.eps) * self.weight.double()

    def of_sum(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + update, and x + update; of x where there is no update."""
        if update is None:
            return self(x), x
        fused = self.core.of(x).raw_forward
        if fused is not None and x.dtype == update.dtype:
            y, total = fused(x, update, self.weight, self.eps)
            return y, total
        total = x + update
        return self(total), total

    def gated(self, x: Tensor, gate: Tensor, *, sigmoid: bool = False) -> Tensor:
        """The norm times silu(gate), in gate's dtype; or times sigmoid(gate), in x's."""
        y: Tensor = self.core.of(x).forward(x, self.weight, self.eps, gate, False, sigmoid)
        return y

    def of_gated(self, x: Tensor, gate: Tensor, groups: int) -> Tensor:
        """The norm of x silu(gate), in gate's dtype; each of the groups of the last dimension is normalised
        alone."""
        x, gate, weight = (part.unflatten(-1, (groups, -1)) for part in (x, gate, self.weight))
        y: Tensor = self.core.of(x).forward(x, weight, self.eps, gate, True)
        return y.flatten(-2)


def l2_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(|x|^2 + eps) over the last dimension, as fla and Qwen3-Next normalise queries and keys."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def normalised_queries_and_keys(qk_THK: Tensor, scale: float,
                                norm: Function = rms_norm) -> tuple[Tensor, Tensor]:
    """`l2_normalise` of queries (times `scale`) and keys; the head dimension has the queries first. norm:
    what computes `rms_norm`."""
    heads, dim = qk_THK.shape[-2] // 2, qk_THK.shape[-1]
    weight = _norm_weight(heads, dim, scale, state_dtype(qk_THK.dtype), qk_THK.device)
    q, k = norm(qk_THK, weight, 1e-6 / dim).chunk(2, -2)
    return q, k


@cached_table
def _norm_weight(heads: int, dim: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[2 x heads, 1]: what makes rms_norm an l2 norm, |x| = sqrt(dim) rms(x), times `scale` for the first
    half."""
    weight = torch.full((2 * heads, 1), dim ** -0.5, dtype=dtype, device=device)
    weight[:heads] *= scale
    return weight
