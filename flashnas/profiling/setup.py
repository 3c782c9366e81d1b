"""Setup: how this machine runs what is timed, and whether it can answer for a table."""

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
from flashnas.base.settings import MAX_THREADS
from flashnas.latency.schema import MODES
from flashnas.latency.table import LatencyTable
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import installed
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.platforms import PLATFORMS, Platform, device_label

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How this machine runs what is timed.

    Attributes:
        device: a platform of `flashnas.profiling.platforms`.
        dtype: float32 or bfloat16; auto: that of the platform.
        mode: eager; compiled (each block by torch.compile; on a CPU this needs a C++ compiler and takes seconds to
            minutes for each operator and width); cuda_graph; auto: that of the platform.
        backend: the libraries that compute the operators, one of `flashnas.operators.backends.BACKENDS`.
        threads: of torch, on a CPU. A small model decodes fastest on few threads.
        effort: how long each timing is repeated.

    Raises:
        ConfigError: for an option that this machine cannot fulfil, in one line.
    """

    device: str = "cpu"
    dtype: str = "auto"
    mode: str = "auto"
    backend: str = "auto"
    threads: int = 1
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        if self.device not in PLATFORMS:
            raise ConfigError(one_of("--device", self.device, PLATFORMS))
        if not self.platform.available():
            raise ConfigError(f"--device {self.device}: torch {torch.__version__} sees no {self.device.upper()} device")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(one_of("--dtype", self.dtype, ("auto", *DTYPES)))
        if self.mode not in ("auto", *MODES):
            raise ConfigError(one_of("--mode", self.mode, ("auto", *MODES)))
        if self.mode_name not in self.platform.modes:
            able = next(name for name, platform in PLATFORMS.items() if self.mode in platform.modes)
            raise ConfigError(f"--mode {self.mode} needs --device {able}; got --device {self.device}")
        if self.backend not in BACKENDS:
            raise ConfigError(one_of("--backend", self.backend, BACKENDS))
        if not 1 <= self.threads <= MAX_THREADS:
            raise ConfigError(f"--threads must be from 1 to {MAX_THREADS}; got {self.threads}")

    @property
    def platform(self) -> Platform:
        """The platform of the device."""
        return PLATFORMS[self.device]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's object."""
        return DTYPES[self.dtype_name]

    @property
    def dtype_name(self) -> str:
        """The dtype, with `auto` resolved."""
        return self.platform.dtype if self.dtype == "auto" else self.dtype

    @property
    def mode_name(self) -> str:
        """The mode, with `auto` resolved."""
        return self.platform.mode if self.mode == "auto" else self.mode

    @property
    def stack(self) -> str:
        """Name of the software that runs. Rows of another version, library, driver or number of threads are stale."""
        libraries = "".join(f"-{name}-{version}" for name, version in self.libraries.items())
        chosen = "" if self._ordinary else f"-by-{self.backend}"
        return f"torch-{torch.__version__}" + (f"-{self.threads}t" if self.device == "cpu" else _driver()) + (
            libraries + chosen)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that operators may be computed by."""
        return installed(self.backend, self.device)

    @property
    def _ordinary(self) -> bool:
        """True if the backend is what `auto` would choose."""
        return self.backend == "auto" or (self.device == "cpu" and self.backend == "torch"
                                          and not installed("auto", "cpu"))

    def describe_stack(self) -> dict[str, Any]:
        """The entry of `stack` in meta.yaml."""
        known: dict[str, Any] = {"framework": "torch", "version": str(torch.__version__)}
        known |= {"threads": self.threads} if self.device == "cpu" else {
            "cuda": torch.version.cuda, "driver": _driver().removeprefix("-driver-")}
        if self.libraries or self.device != "cpu":
            known["libraries"] = self.libraries
        return known if self._ordinary else {**known, "backend": self.backend}

    def table_name(self) -> str:
        """Name of the folder that a table of this device gets by default, such as `cpu_epyc_7b13`."""
        words = re.sub(r"\(.*?\)|\b(CPU|Processor|NVIDIA|\d+-Core)\b|@.*", " ", device_label(self.device))
        return re.sub(r"[^a-z0-9]+", "_", f"{self.device} {words}".lower()).strip("_")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inference mode with the setup's threads; both are restored at the end."""
        self.platform.prepare()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def _driver() -> str:
    if not NVIDIA_DRIVER.exists():
        return ""
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", NVIDIA_DRIVER.read_text())
    return f"-driver-{found[1]}" if found else ""


def setup_like(table: LatencyTable, *, dtype: str, mode: str | None = None, backend: str | None = None,
               effort: Effort | None = None, any_stack: bool = False, hint: str = "") -> Setup:
    """The setup that runs whole models here as the operators of a table were run.

    Args:
        table: rows of whole operators, as `flashnas profile` writes them.
        dtype: of the rows; one that torch cannot run here is replaced by the platform's own.
        mode: of the rows (None: the table's default).
        backend: libraries that compute the operators (None: those of the rows).
        effort: how long each timing is repeated (None: the default).
        any_stack: on another device or stack, return the nearest setup that this machine can run.
        hint: end of the error messages.

    Raises:
        TableError: in one line, where this machine is another device or runs another stack.
    """
    device = table.device.platform
    here = PLATFORMS[device].available()
    rows = table.only(mode)
    stacks = sorted({str(name) for kind, frame in rows.frames.items() if kind.startswith("operator_")
                     for name in frame["stack"].unique()})
    threads = max([int(table.meta["stacks"].get(name, {}).get("threads", 1)) for name in stacks], default=1)
    backends = [str(table.meta["stacks"].get(name, {}).get("backend", "auto")) for name in stacks]
    setup = Setup(device=device if here else "cpu", dtype=dtype if dtype in DTYPES else "auto", threads=threads,
                  mode=rows.default_mode if here else "auto", effort=effort or Effort(),
                  backend=backend or (backends[0] if backends and here else "auto"))
    if any_stack:
        return setup
    where, end = f"{table.path}: table {table.name}", f"; {hint}" if hint else ""
    if not here or table.device.label != device_label(device):
        found = device_label(device) if here else f"a machine without {device.upper()} ({device_label('cpu')})"
        raise TableError(f"{where} is of {table.device.label or table.name}, but this is {found}{end}")
    if stacks != [setup.stack]:
        raise TableError(f"{where} has rows of {', '.join(stacks) or table.stack}, but this machine runs {setup.stack};"
                         f" measure them anew with flashnas profile{end}")
    return setup
