"""The type in which a device multiplies matrices faster: bfloat16, or float32 where bfloat16 is
emulated, as on CPUs without AVX-512."""

import contextlib
import functools
import time

import torch

from flashnas.base.system import one_thread

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SHAPE = (256, 512, 512)  # of the product: that of a small training step
_REPEATS = 3


@functools.cache
def fast_dtype(device: str) -> str:
    """`bfloat16` or `float32`, whichever a timed product on a device (`cpu` or `cuda`) finds faster.
    Every choice of a type that the user leaves open is made here. bfloat16 for a GPU that is not at
    hand.

    Example:
        >>> from flashnas.network.precision import fast_dtype
        >>> fast_dtype("cpu") in ("bfloat16", "float32")
        True
    """
    if device == "cuda" and not torch.cuda.is_available():
        return "bfloat16"
    with one_thread():  # as trainings run: on busy cores two would wait for each other
        return min(TYPES, key=lambda name: product_s(device, TYPES[name]))


def autocast(dtype: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products are computed in a type of TYPES."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def product_s(device: str, dtype: torch.dtype) -> float:
    """Shortest time of a matrix product in seconds, after one that warms up."""
    rows, inner, columns = _SHAPE
    a = torch.ones(rows, inner, device=device, dtype=dtype)
    b = torch.ones(inner, columns, device=device, dtype=dtype)
    times = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    return min(times[1:])
