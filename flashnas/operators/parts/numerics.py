"""Number types, the projection of a reference, and initial values of time steps and decays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

LOG2_E = 1 / math.log(2)  # torch takes powers of two in a third of the time of exp on a CPU
F = TypeVar("F", bound=Callable[..., Tensor])


def cached_table(build: F) -> F:
    """Keeps the last 256 tensors that a function of sizes, dtypes and devices built.

    They are ordinary tensors even if the first call is made in inference mode: a table made while
    profiling must serve training too.
    """
    return functools.lru_cache(maxsize=256)(torch.inference_mode(False)(build))  # type: ignore[return-value]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent states, decays and norms: float32, or float64 when the model is
    float64.
    """
    return torch.promote_types(dtype, torch.float32)


def linear_reference(linear: nn.Linear | nn.Identity, x: Tensor) -> Tensor:
    """The projection of a float64 tensor, in float64."""
    if isinstance(linear, nn.Identity):  # a half of a larger operator puts out what it has
        return x
    y = x @ linear.weight.double().T
    return y if linear.bias is None else y + linear.bias.double()


def inverse_softplus_of_log_uniform(size: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """Bias b with softplus(b) log-uniform in [low, high]: time steps as Mamba2 and Gated DeltaNet
    start with.
    """
    step = torch.exp(torch.rand(size) * (math.log(high) - math.log(low)) + math.log(low))
    return step + torch.log(-torch.expm1(-step))


def log_of_uniform(size: int, low: float = 1.0, high: float = 16.0) -> Tensor:
    """log of decay rates drawn uniformly from [low, high]."""
    return torch.log(torch.empty(size).uniform_(low, high))
