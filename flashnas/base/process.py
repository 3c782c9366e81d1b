"""How this process's C library treats freed memory; no torch."""

import ctypes
import sys

# glibc's mallopt(3): parameters
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_TOP_PAD = -1, -4, -2


def keep_memory() -> bool:
    """Keep freed memory in the process instead of giving it back to the kernel; True if glibc took the settings.

    Tensors of a few megabytes lie above glibc's mmap threshold, so each is mapped, zeroed page by page and unmapped
    again, or not, depending on what the process did before. Worth 10-14 % of a training step; and the same model read
    the same prompt in 265 or 390 ms without it, which no latency table could predict.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 << 20)])
