"""Numba: recurrences and their surroundings compiled for CPUs, in operators/compiled. Float32 inside, one thread.

A recurrence computed token by token keeps its state in the first-level cache, so that on a CPU it needs no chunks.
"""

from __future__ import annotations

import torch

from flashnas.operators.backends.library import Library, Pair, Sizes
from flashnas.registry import load_object

LANES = 16  # of a vector register with 512 bits
MOST_DIM = 256
# core: the module's (of a whole sequence, of one token), in the signatures of our torch functions
ENTRIES = {
    "delta_rule": ("delta_rule:delta_rule", "delta_rule:delta_rule_step"),
    "gated_delta_rule": ("delta_rule:delta_rule", "delta_rule:delta_rule_step"),
    "kda": ("delta_rule:kda", "delta_rule:kda_step"),
    "dplr": ("dplr:dplr", "dplr:dplr_step"),
}


def _pair(core: str) -> Pair:
    forward, step = (load_object(f"flashnas.operators.compiled.{entry}") for entry in ENTRIES[core])
    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32 and half precision only; got {str(dtype).removeprefix('torch.')}"
    for name in ("key_dim", "value_dim"):
        if sizes.get(name, LANES) % LANES or sizes.get(name, LANES) > MOST_DIM:
            return f"it takes a {name} in multiples of {LANES} up to {MOST_DIM}; got {sizes[name]}"
    return ""


def _entry(core: str):
    return lambda dtype: _pair(core)


LIBRARY = Library(name="numba", package="numba", distribution="numba", refusal=refusal,
                  kernels={core: _entry(core) for core in ENTRIES}, devices=("cpu",))
