"""What a worker process runs for one candidate. Importing this module does not import torch."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# glibc's mallopt(3): parameter, value
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_TOP_PAD = -1, -4, -2


def run_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate on one thread; returns `ProxyScore.to_dict()`.

    job: `architecture` (`Architecture.to_dict()` at full width), `dataset` (a prepared folder), `recipe`
    (`Recipe.to_dict()`), `seed`, and optionally `deadline_s`. All of it is plain data, so any pool can carry it.
    Raises CandidateError with a one-line reason when the candidate fails, other FlashnasErrors for a wrong job.
    """
    single_thread()
    tune_malloc()
    from flashnas.architecture import Architecture
    from flashnas.proxy.dataset import Dataset
    from flashnas.proxy.recipe import Recipe
    from flashnas.proxy.trainer import train

    recipe = Recipe.from_dict(job["recipe"])
    dataset = Dataset.open(job["dataset"])
    proxy = recipe.proxy_of(Architecture.from_dict(job["architecture"]), dataset.vocab)
    return train(proxy, dataset, recipe, job["seed"], deadline_s=job.get("deadline_s")).to_dict()


def single_thread() -> None:
    """One thread for every numerical library: candidates run side by side, and one thread reproduces to the bit."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)


def tune_malloc() -> bool:
    """Keep freed memory in the process instead of giving it back to the kernel after every operation.

    Activations of a few megabytes lie above glibc's mmap threshold, so each is mapped, zeroed page by page and
    unmapped again at every step. Worth 0-20 % of a training step's CPU time (width 128, d, a, m2; least on an idle
    machine). True if glibc took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 << 20)])
