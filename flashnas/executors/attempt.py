"""One attempt at a job inside a worker: what it ended with, and a process that is as it was before.

Everything that a job raises comes back as plain data, so that an error whose class the driver
cannot load, or cannot pickle, is a reason like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flashnas.base.errors import (
    CandidateError,
    CandidateMemoryError,
    CorpusError,
    DeviceError,
    FlashnasError,
    PluginError,
)
from flashnas.base.system import THREAD_VARIABLES, memory_limit_gb
from flashnas.executors.base import Ended, Result

# what no architecture causes: an installation or a disk that is broken, or an error in the code
BROKEN = (ImportError, OSError, CorpusError, DeviceError, PluginError)
BUGS = (AttributeError, NameError, SyntaxError, TypeError)
# parts of messages of the CUDA and ROCm runtimes, which torch raises as RuntimeError
DRIVER_WORDS = (
    "CUDA error",
    "Triton Error [CUDA]",
    "CUDA driver",
    "NVIDIA driver",
    "HIP error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "NCCL",
)
MEMORY_WORDS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA out of memory",
    "allocate memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
)
# classes of libraries: a kernel needs more shared memory than the device has
OF_THE_SIZES = ("OutOfResources",)
THREAD_PATIENCE_S = 0.2


def attempt(function: Callable[[Any], Result], job: Any) -> Ended:
    """Run `function(job)` in this process. Raises nothing but KeyboardInterrupt."""
    before = set(threading.enumerate())
    try:
        with _surroundings_kept():
            ended = Ended(kind="done", result=function(job))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        ended = classify_error(
            error,
            user_code=getattr(job, "evaluator", None) is not None,
            on_cuda=getattr(job, "recipe", {}).get("device") == "cuda",
        )
    return dataclasses.replace(
        ended, reusable=ended.reusable and not (_torch_changed() or _threads_left(before))
    )


def classify_error(
    error: BaseException, *, user_code: bool = False, on_cuda: bool = False
) -> Ended:
    """What the error of a job says: of the candidate, of the memory, or of the environment.
    user_code: it ran a user's evaluator, and whatever that raises is a result, except what a broken
    installation, disk or driver raises; of a training, a library's own error and an error in the
    code are not results. on_cuda: compilers, drivers and libraries then raise errors of all
    classes, which say nothing of the candidate."""
    text = str(error)
    if isinstance(error, MemoryError | CandidateMemoryError) or any(
        words in text for words in MEMORY_WORDS
    ):
        limit_gb = memory_limit_gb()
        torch = sys.modules.get("torch")
        if limit_gb is not None and not (torch is not None and torch.cuda.is_initialized()):
            return Ended(
                kind="failed",
                reason=f"out of memory: a worker may use {limit_gb:g} GB (worker_memory_gb)",
                reusable=False,
            )
        return Ended(kind="memory", reason=reason_of(error), reusable=False)
    if isinstance(error, CandidateError):
        return Ended(kind="failed", reason=reason_of(error))
    if isinstance(error, SystemExit):
        return Ended(kind="failed", reason=f"ended its process (exit code {error.code})")
    # one with a number is of a file system or a connection, others are of an evaluator's patience
    impatient = isinstance(error, TimeoutError) and error.errno is None
    broken = (isinstance(error, BROKEN) and not impatient) or (
        isinstance(error, RuntimeError) and any(words in text for words in DRIVER_WORDS)
    )
    python = type(error).__module__.partition(".")[0] in ("builtins", *sys.stdlib_module_names)
    foreign = (
        not isinstance(error, FlashnasError | TimeoutError)
        and (on_cuda or not python)
        and type(error).__name__ not in OF_THE_SIZES
    )
    if broken or (not user_code and (isinstance(error, BUGS) or foreign)):
        return Ended(
            kind="broken", reason=f"{reason_of(error)} (on {socket.gethostname()})", reusable=False
        )
    return Ended(kind="error", reason=reason_of(error))


def reason_of(error: BaseException) -> str:
    """In one line: the class of the error, unless it is CandidateError, and its first line."""
    if isinstance(error, MemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    named = "" if isinstance(error, CandidateError) else type(error).__name__
    return ": ".join(filter(None, (named, text[0] if text else "")))


@contextlib.contextmanager
def _surroundings_kept() -> Iterator[None]:
    """Put back what the block changed of environment and folder."""
    environment, folder = dict(os.environ), os.getcwd()
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment) - set(THREAD_VARIABLES):
            del os.environ[name]
        os.environ.update(
            {name: value for name, value in environment.items() if name not in THREAD_VARIABLES}
        )
        with contextlib.suppress(OSError):
            os.chdir(folder)


def _torch_changed() -> bool:
    """Whether the settings of torch, if it is loaded, are not those of a fresh process."""
    torch = sys.modules.get("torch")
    return torch is not None and (
        torch.get_default_dtype(),
        str(torch.get_default_device()),
        str(torch.get_num_threads()),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    ) != (torch.float32, "cpu", os.environ.get("OMP_NUM_THREADS"), True, False, "highest")


def _threads_left(before: set[threading.Thread]) -> bool:
    """True if the job left a thread behind that would compute beside the next one."""
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(THREAD_PATIENCE_S)
            if thread.is_alive():
                return True
    return False
