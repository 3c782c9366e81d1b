"""Projections that also decode fast: a vector times a wide matrix takes up to twice the time unless
the long side of the matrix is contiguous.

A `Transposed` copy must never be older than the weight. Neither a fused optimizer nor an edit
through `.data` raises the version counter of a tensor. A copy is therefore kept only while single
tokens are decoded: every other use of the projection (more than one token, a gradient, another
dtype or device), every step of any optimizer, a conversion of the module and `train()` or `eval()`
free it. An edit through `.data` between two steps of one generation is the one change that is not
seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class _OptimizerSteps:
    """Counts the steps of all optimizers of the process, from the first use on."""

    def __init__(self) -> None:
        self.count = 0
        register_optimizer_step_post_hook(self)

    def __call__(self, *_: Any) -> None:
        self.count += 1


_optimizer_steps = functools.cache(_OptimizerSteps)


class Transposed:
    """A copy of one weight [N, K] laid out as [K, N]; made again when the weight has changed."""

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        # keeps the memory of the weight, so that no other tensor gets its address
        self._source: Tensor | None = None
        self._state: tuple[int, int, int] = (0, 0, 0)

    def of(self, weight: Tensor) -> Tensor:
        state = (weight.data_ptr(), weight._version, _optimizer_steps().count)
        if self._copy is None or state != self._state:
            self._source, self._state = weight.detach(), state
            self._copy = self._source.T.contiguous()
        return self._copy

    def forget(self) -> None:
        """Free the copy."""
        self._copy = self._source = None


def linear_of_one(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Transposed) -> Tensor:
    """F.linear; for a single float32 vector on a CPU, outside of autograd, by `transposed` if the
    weight is wide.

    Args:
        x: [.., K], the input.
        weight: [N, K].
        bias: [N] or None.
        transposed: holds the copy of this weight; any call that cannot use the copy frees it.

    Returns:
        [.., N].
    """
    if torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    rows, columns = weight.shape
    if (
        x.numel() != columns
        or rows <= columns
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or weight.dtype != x.dtype
        or weight.is_inference()
        or not isinstance(weight, nn.Parameter)
    ):
        transposed.forget()
        return F.linear(x, weight, bias)
    y = torch.mm(x.view(1, columns), transposed.of(weight)).view(*x.shape[:-1], rows)
    return y if bias is None else y.add_(bias)


class Projection(nn.Linear):
    """nn.Linear with `linear_of_one`: up to twice as fast in decoding, for a second copy of a wide
    weight.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._transposed = Transposed()

    def forward(self, x: Tensor) -> Tensor:
        return linear_of_one(x, self.weight, self.bias, self._transposed)

    def forget(self) -> None:
        """Free the copy, as before a new sequence."""
        self._transposed.forget()

    def train(self, mode: bool = True) -> Projection:
        """As nn.Module's; frees the copy."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projection:
        self.forget()
        return super()._apply(fn, recurse)


def forget_copies(module: nn.Module) -> None:
    """Free the copies that a module and those inside it keep."""
    for part in module.modules():
        if isinstance(part, Projection):
            part.forget()
