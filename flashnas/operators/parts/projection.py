"""Projections that also decode fast: a vector times a wide matrix takes up to twice the time unless the long
side of the matrix is contiguous.

A `Transposed` copy must never be older than the weight. Neither a fused optimizer nor an edit through `.data`
raises the version counter of a tensor. A copy is therefore kept only while single tokens are decoded: every
other use of the projection (more than one token, a gradient, another dtype or device), every step of any
optimizer, a conversion of the module and `train()` or `eval()` free it. An edit through `.data` between two
steps of one generation is the one change that is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from flashnas.operators.parts.numerics import decay_rates, wide


class _OptimizerSteps:
    """Counts the steps of all optimizers of the process."""

    count = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1


_STEPS = _OptimizerSteps()
register_optimizer_step_post_hook(_STEPS)


class Derived:
    """What is computed of one weight by `make`; again when the weight has changed, or needs gradients."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self._make = make
        self._copy: Tensor | None = None
        # keeps the memory of the weight, so that no other tensor gets its address
        self._source: Tensor | None = None
        self._state: tuple[int, int, int] = (0, 0, 0)

    def of(self, weight: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._make(weight)
        version = -1 if weight.is_inference() else weight._version
        state = (weight.data_ptr(), version, _STEPS.count)
        if self._copy is None or state != self._state:
            self._source, self._state = weight.detach(), state
            self._copy = self._make(self._source)
        return self._copy

    def forget(self) -> None:
        """Free the copy."""
        self._copy = self._source = None


class KeepsCopies:
    """A module with copies that `forget` frees, as before a new sequence."""

    def forget(self) -> None:
        raise NotImplementedError


def _transpose(weight: Tensor) -> Tensor:
    return weight.T.contiguous()


class KeepsConstants(KeepsCopies):
    """A state-space layer, which keeps A = -exp(A_log), dt_bias and D in the dtype of states."""

    A_log: nn.Parameter
    dt_bias: nn.Parameter
    D: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self._constants = Derived(decay_rates), Derived(wide), Derived(wide)

    def constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, dt_bias and D."""
        rates, bias, skip = self._constants
        return rates.of(self.A_log), bias.of(self.dt_bias), skip.of(self.D)

    def forget(self) -> None:
        for derived in self._constants:
            derived.forget()


class Transposed(Derived):
    """A copy of one weight [N, K] laid out as [K, N]."""

    def __init__(self) -> None:
        super().__init__(_transpose)


def linear_of_one(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Transposed) -> Tensor:
    """F.linear; for a single float32 vector on a CPU, outside of autograd, by `transposed` if the weight is
    wide.

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
    if (x.numel() != columns or rows <= columns or x.dtype != torch.float32 or x.device.type != "cpu"
            or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
            or weight.dtype != x.dtype or weight.is_inference() or not isinstance(weight, nn.Parameter)):
        transposed.forget()
        return F.linear(x, weight, bias)
    y = torch.mm(x.view(1, columns), transposed.of(weight)).view(*x.shape[:-1], rows)
    return y if bias is None else y.add_(bias)


class Projection(nn.Linear, KeepsCopies):
    """nn.Linear with `linear_of_one`: up to twice as fast in decoding, for a second copy of a wide weight."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._transposed = Transposed()

    def forward(self, x: Tensor) -> Tensor:
        return linear_of_one(x, self.weight, self.bias, self._transposed)

    def forget(self) -> None:
        self._transposed.forget()

    def train(self, mode: bool = True) -> Projection:
        """As nn.Module's; frees the copy."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projection:
        self.forget()
        return super()._apply(fn, recurse)


ALIGNED = 8  # rows and columns of a product: 16 bytes in half precision


class Aligned(nn.Linear):
    """nn.Linear whose products on a GPU have rows and columns that are multiples of 8.

    Its output has up to 7 columns more there, all zero; `split_of` leaves them out. Names and sizes of its
    parameters are those of nn.Linear. torch.compile pads products itself. weights_move: the memory of the
    weights is this module's; False where something else fills it, as for sharded weights.
    """

    weights_move = True

    def forward(self, x: Tensor) -> Tensor:
        if not _pads(x):
            return super().forward(x)
        aligned = _with_zeros if self.weights_move else _padded
        weight, missing = aligned(self.weight), -self.in_features % ALIGNED
        if missing:
            x, weight = F.pad(x, (0, missing)), F.pad(weight, (0, missing))
        return F.linear(x, weight, None if self.bias is None else aligned(self.bias))


class AlignedProjection(Aligned, Projection):
    """Both: on a GPU aligned, on a CPU as a Projection."""


def split_of(y: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """The parts of what an `Aligned` projection puts out."""
    more = y.shape[-1] - sum(sizes)
    return y.split([*sizes, more] if more else list(sizes), -1)[:len(sizes)]


def _pads(x: Tensor) -> bool:
    return not (x.is_cpu or torch.compiler.is_compiling())


def _padded(parameter: Tensor) -> Tensor:
    """A copy of the parameter with rows of zeros up to a multiple of 8."""
    return F.pad(parameter, (0, 0) * (parameter.ndim - 1) + (0, -len(parameter) % ALIGNED))


def _with_zeros(parameter: Tensor) -> Tensor:
    """The parameter with rows of zeros up to a multiple of 8; no copy but the first time, when its memory
    moves in front of them. What moves it again, as `Module.to` does, is noticed."""
    rows, *columns = parameter.shape
    missing = -rows % ALIGNED
    if not missing:
        return parameter
    storage = parameter.untyped_storage()
    if storage.nbytes() != parameter[0].nbytes * (rows + missing):
        with torch.inference_mode(parameter.is_inference()), torch.no_grad():
            kept = parameter.new_zeros(rows + missing, *columns)
            kept[:rows].copy_(parameter.detach())
            parameter.data = kept[:rows]
    return parameter.as_strided((rows + missing, *columns), parameter.stride())


def forget_copies(module: nn.Module) -> None:
    """Free the copies that a module and those inside it keep."""
    for part in module.modules():
        if isinstance(part, KeepsCopies):
            part.forget()
