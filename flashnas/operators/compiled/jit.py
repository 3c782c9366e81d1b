"""`compiled`: Numba's compiler with our options. What it compiles is kept on disk.

Numba writes next to the source (`__pycache__`), into the user's cache folder where that is read-only, or into
NUMBA_CACHE_DIR. It writes whole files under one name per function, so that several processes may compile at once as
long as each function has one signature: a kernel takes arrays of one dtype, and variants get names of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from torch import Tensor

# Numba compares the file of a kernel with the cache, not what it imports: that goes into the kernel's name.
_SHARED = hashlib.sha256(b"".join(path.read_bytes() for path in (Path(__file__),))).hexdigest()[:8]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call. `contract` and `reassoc` allow fused and reordered sums; nan and inf keep their
    meaning."""
    return variant("")(function)


def variant(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`compiled` for a function that is made several times, each time with another `name`."""
    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__qualname__ = f"{function.__qualname__.replace('.<locals>', '')}_{name}_{_SHARED}"
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
        try:
            kernel: Callable[..., Any] = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written to
            kernel = numba.njit(**options)(function)
        return kernel
    return compile_


def array(x: Tensor) -> np.ndarray[Any, Any]:
    """The values of a CPU tensor as a float32 array that shares its memory where the tensor is float32."""
    return x.detach().float().numpy()
