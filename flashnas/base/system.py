"""What is asked of the operating system: files that survive a crash, locks, errors of the disk,
signals, limits of this process. No torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flashnas.base.errors import FlashnasError

if TYPE_CHECKING:
    from filelock import BaseFileLock

FILE_MODE, FOLDER_MODE = 0o644, 0o755
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last one is of `ulimit -f`

# -- files -----------------------------------------------------------------------------------------


def write_synced(path: Path, data: bytes | str) -> None:
    """Write a file and wait until it is on the disk. Text is written as UTF-8, line ends as they
    are.
    """
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    sync_path(path)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file as a whole: readers, and the disk after a crash, have the old content or the
    new one.
    """
    with atomic_file(path) as part:
        write_synced(part, data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` for a library to write; it replaces `path` when the block ends
    without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        sync_path(part)
        os.chmod(part, FILE_MODE)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# -- folders ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_folder(path: Path, *, existing: str = "replace") -> Iterator[Path]:
    """A temporary folder beside `path` for the caller to fill; it becomes `path` when the block
    ends without an error. Files in it are the caller's to sync (`write_synced`).

    Args:
        existing: what happens if `path` is there, such as from another process: `replace` it,
            `keep` it and drop the new folder, or `refuse` with OSError. An empty folder is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield fresh
        os.chmod(fresh, FOLDER_MODE)
        sync_path(fresh)
        if existing == "replace":
            replace_folder(fresh, path)
        else:
            try:
                os.rename(fresh, path)
            except OSError as error:
                if existing == "refuse" or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        sync_path(path.parent)
    finally:
        _remove(fresh)


def replace_folder(new: Path, old: Path) -> None:
    """Move the folder `new`, of the same file system, to the path `old`, in place of what is there.
    A crash between the two renames leaves that as `.NAME.old`; `recover_folder` brings it back."""
    recover_folder(old)
    if not os.path.lexists(old):
        os.rename(new, old)
        return
    before = _before(old)
    os.rename(old, before)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(before, old)
        raise
    _remove(before)


def recover_folder(path: Path) -> None:
    """Bring back the folder that a crash inside `replace_folder` left under another name, if `path`
    is missing."""
    before = _before(path)
    if not os.path.lexists(before):
        return
    if os.path.lexists(path):
        _remove(before)
    else:
        os.rename(before, path)


def _before(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- locks -----------------------------------------------------------------------------------------


def hold_lock(path: Path, busy: FlashnasError, wait_s: float = 0) -> BaseFileLock:
    """Take the lock file `path` for this process, until `release()`, the end of a `with` block, or
    the end of the process, also by SIGKILL. The file remains. Keep a reference to the lock as long
    as it is needed.

    Args:
        busy: the error to raise if another process, or another part of this one, holds the lock.
        wait_s: how long to wait for that one.
    """
    from filelock import FileLock, Timeout  # 37 ms, which only commands that write pay

    lock = FileLock(path, timeout=wait_s, mode=FILE_MODE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise busy from None
    return lock


# -- errors of the disk ----------------------------------------------------------------------------


def system_error(error: BaseException) -> OSError | None:
    """The error of the operating system that `error` is, or that it names in its text, as Rust
    libraries do."""
    if isinstance(error, OSError):
        return error
    if match := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(match[1]), os.strerror(int(match[1])))
    return None


def reason_of(error: OSError) -> str:
    """`No space left on device` and the like: why the system refused, without number and path."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextlib.contextmanager
def disk_errors(what: str, error: type[FlashnasError], hint: str = "") -> Iterator[None]:
    """Raise `error` with the line `WHAT: REASON HINT` if the system refuses a read or a write
    within the block. hint: what to do about it, with its separator, such as `; choose another
    --out`."""
    try:
        yield
    except FlashnasError:
        raise
    except Exception as caught:
        system = system_error(caught)
        if system is None:
            raise
        raise error(f"{what}: {reason_of(system)}{hint}") from None


# -- signals ---------------------------------------------------------------------------------------


# what ends a command but for Ctrl-C; Windows has no SIGHUP
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


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

    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: own for number, own in before.items() if own != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, signal.SIG_DFL if own is None else own)


# -- limits of this process ------------------------------------------------------------------------

# read by the numerical libraries when they are loaded
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
# glibc's mallopt(3): parameters
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_TOP_PAD = -2


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its container: the default number of
    workers. The environment variable LOKY_MAX_CPU_COUNT lowers it."""
    from joblib import cpu_count

    return int(cpu_count())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, which is loaded, within a block. On busy cores threads that wait for each
    other take many times as long."""
    torch = sys.modules["torch"]
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def limit_threads(count: int, *, keep: bool = False) -> None:
    """Set the threads of the numerical libraries that this process, and processes that it starts,
    load from now on, and those of torch where it is loaded.

    Args:
        keep: leave a variable as it is where the user has set it, and torch as it is.
    """
    for name in THREAD_VARIABLES:
        if not (keep and name in os.environ):
            os.environ[name] = str(count)
    if not keep and (torch := sys.modules.get("torch")):
        torch.set_num_threads(count)


def keep_memory() -> None:
    """Keep freed memory in the process instead of giving it back to the kernel, where the C library
    is glibc.

    Tensors of a few megabytes lie above glibc's mmap threshold, and may be mapped, zeroed and
    unmapped at each use. With this setting a training step takes 10-14 % less time; without it one
    model read the same prompt in 265 or in 390 ms.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_TOP_PAD, 64 << 20)


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
