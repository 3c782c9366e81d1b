"""Numba, 0.60 or later: recurrences compiled for CPUs by operators/compiled; float32 inside, on one thread.

Token by token, with the state in the first-level cache, takes less time there than products of small chunks.
Sizes of keys and values that are not multiples of 16 are filled up with zeros; their steps are computed by
torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from flashnas.operators.backends.library import HALF, Library, Pair, Sizes, name_of

MAX_DIM = 256  # of keys and values: what the first-level cache holds
MAX_TAPS = 4  # of a convolution
# in operators/compiled, in the signatures of our torch functions; of one token: with `_step` behind the name,
# where there is such a function
ENTRIES = {
    "delta_rule": "delta_rule:delta_rule", "gated_delta_rule": "delta_rule:delta_rule",
    "kda": "delta_rule:delta_rule", "dplr": "delta_rule:dplr", "ssd": "linear_attention:ssd_scan",
    "gla": "linear_attention:gla", "selective_scan": "selective_scan:scan_of_inputs",
    "convolution": "convolution:short_convolution", "norm": "norms:normalise", "swiglu": "norms:swiglu",
    "softmax": "cross_entropy:softmax_",
}


def _entry(core: str) -> Callable[[torch.dtype], Pair]:
    def pair(dtype: torch.dtype) -> Pair:
        file, name = ENTRIES[core].split(":")
        module = importlib.import_module(f"flashnas.operators.compiled.{file}")
        return getattr(module, name), getattr(module, f"{name}_step", getattr(module, name))
    return pair


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype != torch.float32 and dtype not in HALF:
        return f"it computes in float32; got {name_of(dtype)}"
    if sizes.get("taps", 0) > MAX_TAPS:
        return f"it takes up to {MAX_TAPS} taps; got {sizes['taps']}"
    for name in ("key_dim", "value_dim"):
        if sizes.get(name, 0) > MAX_DIM:
            return f"it takes a {name} up to {MAX_DIM}; got {sizes[name]}"
    return ""


LIBRARY = Library(name="numba", package="numba", distribution="numba", refusal=refusal,
                  kernels={core: _entry(core) for core in ENTRIES}, devices=("cpu",), by_address=True)
