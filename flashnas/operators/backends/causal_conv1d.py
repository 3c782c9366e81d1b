"""causal-conv1d, 1.4 or later: short convolutions; belongs to the choice mamba-ssm, which builds on
it.

It wants [B, C, T] with neighbouring channels (a transposed [B, T, C]) and strides that are multiples of 8;
states are [B, C, taps - 1], likewise transposed. Source: causal_conv1d/causal_conv1d_interface.py and the
checks in csrc/causal_conv1d.cpp, github.com/Dao-AILab/causal-conv1d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashnas.operators.backends.library import Library, Pair, Sizes
from flashnas.operators.parts.numerics import is_fresh

ALIGNED = 8


def convolution(dtype: torch.dtype) -> Pair:
    """`short_convolution` and `short_convolution_step`; the step writes into the state."""
    from causal_conv1d import causal_conv1d_fn, causal_conv1d_update

    def forward(x_BTC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                silu: bool = True) -> tuple[Tensor, Tensor]:
        if x_BTC.stride(2) != 1 or x_BTC.stride(1) % ALIGNED or x_BTC.stride(0) % ALIGNED:
            # one token of one sequence counts as contiguous
            x_BTC = x_BTC.clone(memory_format=torch.contiguous_format)
        before = None if is_fresh(state_BTC) else state_BTC.to(x_BTC.dtype).contiguous().mT
        y, after = causal_conv1d_fn(x_BTC.mT, weight, bias, initial_states=before, return_final_states=True,
                                    activation="silu" if silu else None)
        return y.mT, after.mT

    def step(x_BC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
             silu: bool = True) -> tuple[Tensor, Tensor]:
        state, activation = state_BTC.to(x_BC.dtype), "silu" if silu else None
        return causal_conv1d_update(x_BC, state.mT, weight, bias, activation=activation), state

    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    if not 2 <= sizes["taps"] <= 4:
        return f"it takes 2 to 4 taps; got {sizes['taps']}"
    if sizes["channels"] % ALIGNED:
        return f"it takes channels in multiples of {ALIGNED}; got {sizes['channels']}"
    return ""


LIBRARY = Library(name="causal-conv1d", package="causal_conv1d", distribution="causal-conv1d",
                  refusal=refusal, kernels={"convolution": convolution}, least="1.4",
                  functions=("causal_conv1d_fn", "causal_conv1d_update"))
