"""The platforms that torch runs on: their clocks, their memory, and the facts of the device at
hand.
"""

from __future__ import annotations

import os
import platform as host
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flashnas.base.system import usable_cores
from flashnas.base.text import first_line
from flashnas.latency.schema import Device
from flashnas.network.precision import DEFAULT_DTYPE
from flashnas.profiling.timing import Call, once_on_cpu, once_on_cuda, repeated

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MEMORY = Path("/proc/meminfo")
COPIED_BYTES = 256 * 2**20  # larger than the last-level cache of any machine so far


class Platform(ABC):
    """One kind of device.

    Attributes:
        name: as in `flashnas.latency.schema.PLATFORMS`, and torch's name of the device.
        once_ms: the clock around one call.
        steady_ms: of the repeats of a call, before which clocks and power are not those of steady
            work.
        piece_tokens: the most tokens of the prompts of a batch that are read at once.
        product_size: side of the square matrices whose product is the peak.
    """

    name: str
    once_ms: Callable[[Call], float]
    steady_ms: float = 0.0
    piece_tokens: int = 2**62
    product_size: int

    @property
    def dtype(self) -> str:
        """That is timed by default."""
        return DEFAULT_DTYPE[self.name]

    @abstractmethod
    def available(self) -> bool:
        """Whether torch sees such a device on this machine."""

    @abstractmethod
    def label(self) -> str:
        """What device.yaml calls the device at hand."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For a bug report: label, memory_bytes and what decides which kernels the device can
        run.
        """

    @abstractmethod
    def memory_bytes(self) -> int: ...

    @abstractmethod
    def free_bytes(self) -> int:
        """What can still be allocated."""

    def describe(self, name: str) -> Device:
        """The facts of the device at hand; what it does not state is measured."""
        return Device(
            name=name,
            platform=self.name,
            label=self.label(),
            peak_flops=self.product_flops(),
            bandwidth_bytes_s=self.copy_bandwidth(),
            memory_bytes=self.memory_bytes(),
            cite=f"measured by flashnas profile with torch {torch.__version__}",
        )

    def _seconds(self, call: Call) -> float:
        self.once_ms(call)  # does not count
        return repeated(lambda: self.once_ms(call), seconds=2.0).ms / 1000

    def copy_bandwidth(self) -> float:
        """Bytes per second, read plus written, of a copy that no cache holds."""
        source = torch.ones(COPIED_BYTES // 4, device=self.name)
        target = torch.empty_like(source)
        return 2 * COPIED_BYTES / self._seconds(lambda: target.copy_(source))

    def product_flops(self) -> float:
        """FLOP/s of a large matrix product in the default dtype."""
        size = self.product_size
        a = torch.randn(size, size, device=self.name, dtype=getattr(torch, self.dtype))
        return 2 * size**3 / self._seconds(lambda: a @ a)


class Cpu(Platform):
    """The processor, with torch's own threads."""

    name = "cpu"
    once_ms = staticmethod(once_on_cpu)
    product_size = 1536

    def available(self) -> bool:
        return True

    def label(self) -> str:
        return value_in(Path("/proc/cpuinfo"), "model name") or host.processor() or host.machine()

    def facts(self) -> dict[str, Any]:
        return {
            "label": self.label(),
            "memory_bytes": self.memory_bytes(),
            "cores": usable_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }

    def memory_bytes(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def free_bytes(self) -> int:
        """As the system estimates it; all memory where it does not."""
        kilobytes = value_in(MEMORY, "MemAvailable")
        return 1024 * int(kilobytes.split()[0]) if kilobytes else self.memory_bytes()


class Cuda(Platform):
    """The first CUDA device."""

    name = "cuda"
    once_ms = staticmethod(once_on_cuda)
    steady_ms = 200.0  # in the 8 ms that 15 steps take, a GPU is not yet in a steady state
    # below 2**31 numbers in the widest activation of any shipped operator, and 2 to 4 GB
    piece_tokens = 2**16
    product_size = 8192

    def available(self) -> bool:
        return torch.cuda.is_available()

    def problem(self) -> str:
        """Why torch finds no CUDA device, as far as it says so: a driver may be too old for its
        CUDA.
        """
        try:
            torch.cuda.init()
            said = "raises nothing"
        except Exception as error:  # torch raises AssertionError, RuntimeError, .. by reason
            said = f"raises {type(error).__name__}: {first_line(error)}"
        return (
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda or '(none)'}, the"
            f" NVIDIA driver is {driver() or 'not loaded'}, and torch.cuda.init() {said}"
        )

    def label(self) -> str:
        return torch.cuda.get_device_name(0)

    def facts(self) -> dict[str, Any]:
        major, minor = torch.cuda.get_device_capability(0)
        return {
            "label": self.label(),
            "memory_bytes": self.memory_bytes(),
            "cuda": torch.version.cuda,
            "driver": driver(),
            "capability": f"{major}.{minor}",
            "devices": torch.cuda.device_count(),
        }

    def memory_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(0).total_memory)

    def free_bytes(self) -> int:
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if torch.cuda.get_device_properties(0).is_integrated:
            # CUDA does not count the page cache of the memory that both share, which Linux gives up
            return PLATFORMS["cpu"].free_bytes() + kept
        return int(torch.cuda.mem_get_info()[0]) + kept


def value_in(file: Path, name: str) -> str:
    """The first value of a name in a file of lines `name: value`; an empty text if there is
    none.
    """
    text = file.read_text() if file.exists() else ""
    found = re.search(rf"^{name}\s*:\s*(.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def driver() -> str:
    """Version of the NVIDIA driver that is loaded, or an empty text."""
    text = NVIDIA_DRIVER.read_text() if NVIDIA_DRIVER.exists() else ""
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return version[1] if version else ""


CUDA = Cuda()
PLATFORMS: dict[str, Platform] = {platform.name: platform for platform in (Cpu(), CUDA)}
