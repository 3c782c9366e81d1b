"""`compiled`: Numba's compiler with our options, and how kernels get tensors. What it compiles is kept on
disk.

Numba writes next to the source (`__pycache__`), into the user's cache folder where that is read-only, or into
NUMBA_CACHE_DIR. It writes whole files under names that it makes of the function's. Each kernel here has one
signature and a name with the hash of this folder's sources. Several processes and versions may therefore
compile at once, and none loads what an older version left.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
import torch.nn.functional as F
from torch import Tensor

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
# Numba itself compares only the file of the kernel with the cache, not what that file imports
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call. Sums may be fused and reordered; nan and inf keep their meaning."""
    return variant("")(function)


def variant(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`compiled` for a function that is made several times, each time with another `name`."""
    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__qualname__ = f"{function.__name__}_{name}_{_SOURCES.hexdigest()[:12]}"
        try:
            kernel: Callable[..., Any] = numba.njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # no folder can be written to
            kernel = numba.njit(**OPTIONS)(function)
        return kernel
    return compile_


View = tuple[int, int, int, int]  # address, and by how many entries batch, token and head move it


def ready(x: Tensor) -> Tensor:
    """As float32 with neighbouring entries in the last dimension; a copy where it is not."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def view(x_BTH: Tensor) -> View:
    """A float32 tensor [B, T, H, ..], for `at`."""
    batch, token, head = x_BTH.stride()[:3]
    return x_BTH.data_ptr(), batch, token, head


@numba.njit
def at(view, b, t, h):
    """The address of that batch, token and head of a `View`."""
    return view[0] + 4 * (b * view[1] + t * view[2] + h * view[3])


def lanes_of(value_dim: int) -> int:
    """How many value channels a kernel takes at once: 16, 32 or 64, four registers of 512 bits."""
    return next(lanes for lanes in (64, 32, 16) if value_dim % lanes == 0)


def odd(state_BHKV: Tensor) -> bool:
    """True if its sizes are not multiples of 16, the lanes of a register."""
    return bool(state_BHKV.shape[-2] % 16 or state_BHKV.shape[-1] % 16)


def filling(rule: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`rule(q, k, v, .., state_BHKV)` for all sizes: with zeros up to the next multiples of 16. What has as
    many dimensions as q is by key channel. The state stays zero where keys or values are, and no output reads
    it there."""
    def run(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        *others, state_BHKV = others
        if not odd(state_BHKV):
            return rule(q, k, v, *others, state_BHKV)
        key_dim, value_dim = state_BHKV.shape[-2:]
        more_K, more_V = -key_dim % 16, -value_dim % 16
        by_key = [x if x is None or x.ndim < q.ndim else F.pad(x, (0, more_K)) for x in (q, k, *others)]
        o, state_BHKV = rule(*by_key[:2], F.pad(v, (0, more_V)), *by_key[2:],
                             F.pad(state_BHKV, (0, more_V, 0, more_K)))
        return o[..., :value_dim], state_BHKV[..., :key_dim, :value_dim]
    return run


def writable(state: Tensor) -> Tensor:
    """The state of a step, contiguous, to be written in place; a copy if a gradient may still need what it
    holds."""
    return state.clone(memory_format=torch.contiguous_format) if state.requires_grad else state.contiguous()


def over_batches(batch: int, run: Callable[[slice], None], min_size: int = 1) -> None:
    """Calls run for slices of the batch, one for each of torch's threads, which release Python's lock; each
    slice has at least `min_size` sequences."""
    threads = min(torch.get_num_threads(), batch // min_size)
    if threads <= 1:
        run(slice(0, batch))
        return
    ends = [batch * n // threads for n in range(threads + 1)]
    for _ in _pool(os.getpid(), threads).map(run, map(slice, ends[:-1], ends[1:])):
        pass


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def differentiable(rule: Callable[..., Any], inputs: Sequence[Any],
                   grads: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of `rule`, a plain form of a compiled one, of which gradients can be taken again."""
    needed = [x is not None and x.requires_grad for x in inputs]
    with torch.enable_grad():
        leaves = [x for x, need in zip(inputs, needed, strict=True) if need]
        gradients = iter(torch.autograd.grad(rule(*inputs), leaves, grads, create_graph=True,
                                             allow_unused=True))
    return [next(gradients) if need else None for need in needed]


# -- tensors as the flat numpy arrays that compiled code takes; they share the tensors' memory ---------------


def flat(x: Tensor) -> Any:
    """A contiguous tensor as one row."""
    return x.detach().view(-1).numpy()


def bits(x: Tensor) -> Any:
    """A contiguous tensor in float32 or bfloat16 as the uint16 numbers in its memory."""
    return x.detach().view(-1).view(torch.uint16).numpy()


def rows(x: Tensor) -> tuple[Any, int]:
    """[B, T, ..] in float32 or bfloat16 as (the uint16 numbers in its memory from its first number on,
    numbers from one token to the next).

    A part of a projection, whose other parts lie between its tokens, is not copied.
    """
    x = x.detach()
    batch, tokens = x.shape[:2]
    row = x[0, 0]
    size = row.numel()
    stride = x.stride(1) if tokens > 1 else x.stride(0) if batch > 1 else size
    if not row.is_contiguous() or stride < size or (batch > 1 and x.stride(0) != tokens * stride):
        x, stride = x.contiguous(), size
    return x.as_strided(((batch * tokens - 1) * stride + size,), (1,)).view(torch.uint16).numpy(), stride


def wide_copy(x: Tensor) -> Tensor:
    """A contiguous copy in float32, to be written into."""
    return x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
