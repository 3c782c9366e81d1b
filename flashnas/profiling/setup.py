"""Job: how this machine runs what is timed, and whether it can answer for a table."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.hints import one_of
from flashnas.base.process import keep_memory
from flashnas.latency.schema import MODES
from flashnas.latency.table import LatencyTable
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import installed
from flashnas.profiling.device_timing import Effort, cpu_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Device, dtype, mode and threads of what is timed. threads: of torch, on a CPU; a model decodes best on few.

    mode: eager; compiled (each block by torch.compile; on a CPU this needs a C++ compiler and takes seconds to minutes
    for each operator and width); cuda_graph. auto: eager on a CPU, cuda_graph on CUDA. backend: the libraries that
    compute the operators, one of operators.layers.backends.BACKENDS.
    """

    device: str = "cpu"
    dtype: str = "auto"
    mode: str = "auto"
    backend: str = "auto"
    threads: int = 1
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(one_of("--device", self.device, ("cpu", "cuda")))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(one_of("--dtype", self.dtype, ("auto", *DTYPES)))
        if self.mode not in ("auto", *MODES):
            raise ConfigError(one_of("--mode", self.mode, ("auto", *MODES)))
        if self.mode == "cuda_graph" and self.device == "cpu":
            raise ConfigError("--mode cuda_graph needs --device cuda; got --device cpu")
        if self.backend not in BACKENDS:
            raise ConfigError(one_of("--backend", self.backend, BACKENDS))
        if self.threads < 1:
            raise ConfigError(f"--threads must be at least 1; got {self.threads}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def dtype_name(self) -> str:
        return self.dtype if self.dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[self.device]

    @property
    def mode_name(self) -> str:
        return self.mode if self.mode != "auto" else {"cpu": "eager", "cuda": "cuda_graph"}[self.device]

    @property
    def stack(self) -> str:
        """Name of what runs: rows of another version, library, driver or number of threads are stale."""
        libraries = "".join(f"-{name}-{version}" for name, version in self.libraries.items())
        chosen = "" if self._ordinary else f"-by-{self.backend}"
        return f"torch-{torch.__version__}" + (f"-{self.threads}t" if self.device == "cpu" else _driver()) + (
            libraries + chosen)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that operators may be computed by."""
        return {} if self.device == "cpu" else installed(self.backend)

    @property
    def _ordinary(self) -> bool:
        """Nothing but what `auto` would take."""
        return self.backend == "auto" or (self.device == "cpu" and self.backend == "torch")

    def describe_stack(self) -> dict[str, Any]:
        """The entry of `stack` in meta.yaml."""
        known: dict[str, Any] = {"framework": "torch", "version": str(torch.__version__)}
        known |= {"threads": self.threads} if self.device == "cpu" else {
            "cuda": torch.version.cuda, "driver": _driver().removeprefix("-driver-"), "libraries": self.libraries}
        return known if self._ordinary else {**known, "backend": self.backend}

    def table_name(self) -> str:
        words = re.sub(r"\(.*?\)|\b(CPU|Processor|NVIDIA|\d+-Core)\b|@.*", " ", device_label(self.device))
        return re.sub(r"[^a-z0-9]+", "_", f"{self.device} {words}".lower()).strip("_")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inference mode with the job's threads, set back afterwards; freed memory stays with the process."""
        if self.device == "cpu":
            keep_memory()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def device_label(device: str) -> str:
    """What device.yaml calls this machine's CPU or first CUDA device."""
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name(0)


def _driver() -> str:
    if not NVIDIA_DRIVER.exists():
        return ""
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", NVIDIA_DRIVER.read_text())
    return f"-driver-{found[1]}" if found else ""


def job_like(table: LatencyTable, *, dtype: str, mode: str | None = None, backend: str | None = None,
             effort: Effort | None = None, any_stack: bool = False, hint: str = "") -> Job:
    """The job that runs whole models here as the table's operators were run.

    Raises TableError in one line, which ends in `hint`, where this machine is another device or runs another stack;
    any_stack: then the nearest that this machine can do.
    """
    device = table.device.platform
    here = device == "cpu" or torch.cuda.is_available()
    rows = table.only(mode)
    stacks = sorted({str(name) for kind, frame in rows.frames.items() if kind.startswith("operator_")
                     for name in frame["stack"].unique()})
    threads = max([int(table.meta["stacks"].get(name, {}).get("threads", 1)) for name in stacks], default=1)
    backends = [str(table.meta["stacks"].get(name, {}).get("backend", "auto")) for name in stacks]
    job = Job(device=device if here else "cpu", dtype=dtype if dtype in DTYPES else "auto", threads=threads,
              mode=rows.default_mode if here else "auto", effort=effort or Effort(),
              backend=backend or (backends[0] if backends and here else "auto"))
    if any_stack:
        return job
    where, end = f"{table.path}: table {table.name}", f"; {hint}" if hint else ""
    if not here or table.device.label != device_label(device):
        found = device_label(device) if here else f"a machine without CUDA ({cpu_name()})"
        raise TableError(f"{where} is of {table.device.label or table.name}, but this is {found}{end}")
    if stacks != [job.stack]:
        raise TableError(f"{where} has rows of {', '.join(stacks) or table.stack}, but here runs {job.stack}; measure"
                         f" them anew with flashnas profile{end}")
    return job
