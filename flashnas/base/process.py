"""How this process treats threads, freed memory and SIGTERM. No torch."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

# read by the numerical libraries when they are loaded
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

# what ends a command but for Ctrl-C; Windows has no SIGHUP
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
# glibc's mallopt(3): parameters
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_TOP_PAD = -1, -4, -2


def limit_threads(count: int, *, keep: bool = False) -> None:
    """Set the threads of the numerical libraries that this process, and processes that it starts,
    load from now on.

    Args:
        keep: leave a variable as it is where the user has set it.
    """
    for name in THREAD_VARIABLES:
        if not (keep and name in os.environ):
            os.environ[name] = str(count)


def keep_memory() -> bool:
    """Keep freed memory in the process instead of giving it back to the kernel; True if glibc
    accepted the settings.

    Tensors of a few megabytes lie above glibc's mmap threshold, and may be mapped, zeroed and
    unmapped at each use. With this setting a training step takes 10-14 % less time; without it one
    model read the same prompt in 265 or in 390 ms.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return all(
        [
            mallopt(_M_MMAP_MAX, 0),
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
            mallopt(_M_TOP_PAD, 64 << 20),
        ]
    )


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that all end
    a command in the same way. A SIGHUP that the caller ignores, as under nohup, stays ignored.
    Outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(ENDING, interrupt):
        yield


@contextlib.contextmanager
def _handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Within the block, the handler of signals that the caller does not ignore; an interrupt leaves
    none.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: own for number, own in before.items() if own != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, signal.SIG_DFL if own is None else own)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and SIGHUP wait, in the main thread; they act after it. For
    writes of libraries that an exception in their middle would confuse."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    try:
        with _handled((signal.SIGINT, *ENDING), lambda number, _: waiting.append(number)):
            yield
    finally:
        for late in waiting:
            signal.raise_signal(late)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends. Linux only; elsewhere
    nothing changes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def limit_memory(memory_gb: float) -> None:
    """Let this process have at most so much memory of its own (RLIMIT_DATA), not of mapped files;
    what asks for more gets MemoryError, or torch's error of its kind. Where the system has no such
    limit, nothing changes."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gb * 1e9), resource.RLIM_INFINITY))


def memory_limit_gb() -> float | None:
    """The limit that `limit_memory` has set in this process, or None."""
    with contextlib.suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        return None if soft == resource.RLIM_INFINITY else soft / 1e9
    return None
