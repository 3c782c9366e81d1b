"""The platforms that torch runs on: their clocks, their memory, and the facts of the device at
hand.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import platform as host
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashnas.base.errors import DeviceMemoryError
from flashnas.base.settings import usable_cores
from flashnas.base.system import keep_memory
from flashnas.base.text import first_line
from flashnas.latency.schema import PLATFORMS as USUAL_MODES
from flashnas.latency.schema import Device
from flashnas.profiling.device_timing import Call, Effort, Measurement, captured, repeat
from flashnas.profiling.nvml import limits

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MEMORY = Path("/proc/meminfo")
BEYOND_CACHE_BYTES = 256 * 2**20  # larger than the last-level cache of any known machine
LAUNCH_EFFORT = Effort(least=50, most=200)
SMALL_KERNELS = 8, 128  # in the graphs that show what a launch takes
MAX_LAUNCH = 0.5  # share of a graph's time that may be taken off for its launch
MIN_BUSY_US = (
    200_000  # of all repeats on a GPU: after 15 replays, or 8 ms, it is not yet in a steady state
)


class Platform(ABC):
    """One kind of device.

    Attributes:
        name: as in `flashnas.latency.schema.PLATFORMS`, and torch's name of the device.
        dtype: what is timed by default.
        modes: in which an operator can be timed.
        probe_size, product_size: sides of the square matrices whose product is the probe, and the
            peak.
        piece_tokens: the most tokens of the prompts of a batch that are read at once.
        min_us: of all repeats of a timing together.
    """

    name: str
    dtype: str
    modes: tuple[str, ...]
    probe_size: int
    product_size: int
    piece_tokens: int = 2**62
    min_us: float = 0.0

    @property
    def mode(self) -> str:
        """That is timed by default."""
        return USUAL_MODES[self.name]

    @abstractmethod
    def available(self) -> bool:
        """Whether torch sees such a device on this machine."""

    @abstractmethod
    def label(self) -> str:
        """What device.yaml calls the device at hand."""

    def table_name(self) -> str:
        """Such as `cpu_epyc_7b13`."""
        words = re.sub(r"\(.*?\)|\b(CPU|Processor|NVIDIA|\d+-Core)\b|@.*", " ", self.label())
        return re.sub(r"[^a-z0-9]+", "_", f"{self.name} {words}".lower()).strip("_")

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For a bug report: label, memory_bytes and what decides which kernels the device can
        run.
        """

    @abstractmethod
    def moment(self) -> Any:
        """The present moment on the device's time line."""

    @abstractmethod
    def elapsed_us(self, before: Any, after: Any) -> float:
        """Microseconds between two moments."""

    def intervals_us(self, moments: Sequence[Any]) -> list[float]:
        """Microseconds between consecutive moments."""
        return [self.elapsed_us(*pair) for pair in itertools.pairwise(moments)]

    def once_us(self, call: Call) -> float:
        """Microseconds of a call, as the model's own Python issues it."""
        before = self.moment()
        call()
        return self.elapsed_us(before, self.moment())

    def time(
        self, calls: Sequence[Call], mode: str, effort: Effort, *, launch: bool = True
    ) -> Measurement:
        """Time calls that do the same work.

        Args:
            mode: eager calls them in turn; cuda_graph captures them one after the other into one
                graph, whose time is divided by their number.
            launch: whether the launch of a graph counts, which a model pays once a step.

        Raises:
            NotCapturable: no graph can hold the calls.
        """
        number, off_us = 1, 0.0
        if mode == "cuda_graph":
            number, calls = len(calls), [captured(calls)]
            off_us = 0.0 if launch else self.launch_us
        for call in calls:
            self.once_us(call)

        def once_us(index: int) -> float:
            us = self.once_us(calls[index % len(calls)])
            return max(us - off_us, (1 - MAX_LAUNCH) * us) / number

        return repeat(once_us, effort, self.min_us / number)

    def _kernels_us(self, count: int) -> float:
        replay = captured([small_kernel()] * count)
        return repeat(lambda _: self.once_us(replay), LAUNCH_EFFORT).latency_us

    @functools.cached_property
    def launch_us(self) -> float:
        """What the launch of a CUDA graph takes: the time of one without kernels, from graphs with
        few and many of one small kernel. torch does not replay an empty graph."""
        few, many = SMALL_KERNELS
        few_us, many_us = map(self._kernels_us, SMALL_KERNELS)
        return max(few_us - few * (many_us - few_us) / (many - few), 0.0)

    def limits(self) -> str:
        """What bounds its speed and may be set otherwise on the next machine, for `cite` in
        device.yaml.
        """
        return f" on {torch.get_num_threads()} threads"

    @abstractmethod
    def memory_bytes(self) -> int: ...

    @abstractmethod
    def free_bytes(self) -> int:
        """What can still be allocated."""

    def check_memory(self, needed: float, batch: int = 0, kept: int = 0) -> None:
        """Raise DeviceMemoryError if more bytes are needed than are free beside `kept` ones, which
        are used again."""
        free = self.free_bytes() + kept
        if needed > free:
            of_batch = f" with batch {batch}" if batch else ""
            raise DeviceMemoryError(
                f"it needs {needed / 1e9:.1f} GB{of_batch}, and {free / 1e9:.1f} GB are free"
            )

    def forget(self) -> None:  # noqa: B027  (the defaults of these do nothing)
        """Give memory back that torch keeps."""

    def nominal_bandwidth(self) -> float:
        """Bytes per second as the device states it; 0 where it does not."""
        return 0.0

    def prepare(self) -> None:  # noqa: B027
        """Settings of this process that timing needs."""

    def seconds(self, call: Call, repeats: int = 5) -> float:
        """Median over repeats of a call, after one that does not count."""
        return float(np.median([self.once_us(call) for _ in range(repeats + 1)][1:])) / 1e6

    def copy_bandwidth(self) -> float:
        """Bytes per second, read plus written, of a copy that no cache holds."""
        source = torch.ones(BEYOND_CACHE_BYTES // 4, device=self.name)
        target = torch.empty_like(source)
        return 2 * source.numel() * 4 / self.seconds(lambda: target.copy_(source))

    def product_flops(self) -> float:
        """FLOP/s of a large matrix product in the default dtype."""
        size = self.product_size
        a = torch.randn(size, size, device=self.name, dtype=getattr(torch, self.dtype))
        return 2 * size**3 / self.seconds(lambda: a @ a)

    def probe_us(self) -> float:
        """A fixed piece of work, about a millisecond, which shows whether the device is as fast as
        before."""
        a = torch.ones(self.probe_size, self.probe_size, device=self.name)
        return 1e6 * self.seconds(lambda: a @ a, repeats=9)

    def describe(self, name: str) -> Device:
        """The facts of the device at hand; what it does not state is measured."""
        return Device(
            name=name,
            platform=self.name,
            label=self.label(),
            peak_flops=self.product_flops(),
            bandwidth_bytes_s=self.nominal_bandwidth() or self.copy_bandwidth(),
            memory_bytes=self.memory_bytes(),
            cite=f"measured by flashnas profile with torch {torch.__version__}{self.limits()}",
        )


class Cpu(Platform):
    """The processor, with torch's own threads."""

    name = "cpu"
    dtype = "float32"
    modes = ("eager",)
    probe_size = 256
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

    def moment(self) -> int:
        return time.perf_counter_ns()

    def elapsed_us(self, before: int, after: int) -> float:
        return (after - before) / 1000

    def prepare(self) -> None:
        """Keep freed memory with the process, as a server does."""
        keep_memory()


class Cuda(Platform):
    """The first CUDA device."""

    name = "cuda"
    dtype = "bfloat16"
    modes = ("eager", "cuda_graph")
    probe_size = 4096
    product_size = 8192
    # below 2**31 numbers in the widest activation of any shipped operator, and 2 to 4 GB
    piece_tokens = 2**16
    min_us = MIN_BUSY_US

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
            " NVIDIA"
            f" driver is {driver() or 'not loaded'}, and torch.cuda.init() {said}"
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
            **limits(),
        }

    def limits(self) -> str:
        return "".join(f", {name} {value}" for name, value in limits().items())

    def memory_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(0).total_memory)

    def free_bytes(self) -> int:
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept

    def forget(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def nominal_bandwidth(self) -> float:
        properties = torch.cuda.get_device_properties(0)
        clock_hz = getattr(properties, "memory_clock_rate", 0) * 1000
        return 2 * clock_hz * getattr(properties, "memory_bus_width", 0) / 8

    def moment(self) -> torch.cuda.Event:
        """On the device's own time line, which includes the gaps in which it waits for Python."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_us(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        after.synchronize()
        return 1000 * before.elapsed_time(after)


def small_kernel() -> Call:
    """A call that launches the smallest kernel; not `zero_`, which is none."""
    return functools.partial(torch.zeros(1, device="cuda").add_, 1)


def value_in(file: Path, name: str) -> str:
    """The first value of a name in a file of lines `name: value`; an empty text if there is
    none.
    """
    found = (
        re.search(rf"^{name}\s*:\s*(.*?)\s*$", file.read_text(), re.MULTILINE)
        if file.exists()
        else None
    )
    return found[1] if found else ""


def driver() -> str:
    """Version of the NVIDIA driver that is loaded, or an empty text."""
    text = NVIDIA_DRIVER.read_text() if NVIDIA_DRIVER.exists() else ""
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return version[1] if version else ""


CUDA = Cuda()
PLATFORMS: dict[str, Platform] = {platform.name: platform for platform in (Cpu(), CUDA)}
