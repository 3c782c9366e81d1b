"""Timing on the device at hand: repeats, medians and percentiles, outliers and drift, and the device's facts."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from flashnas.latency.schema import Device

BEYOND_CACHE_BYTES = 256 * 2**20     # larger than the last-level cache of the machines that we know of
CONFIDENCE = 1.96                # two-sided 95 %


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long is repeated: until each median's 95 % interval is narrower than `width` of it, within limits.

    least, most: repeats. seconds: limit for what is timed together (in place: all operators at one width and length).
    """

    least: int = 15
    most: int = 400
    seconds: float = 2.0
    width: float = 0.05


@dataclass(frozen=True)
class Measurement:
    """Microseconds per call. outliers: share of the repeats beyond the upper quartile by 3 interquartile ranges. drift:
    median of the second half over that of the first, minus 1; a device that throttles or is shared shows here."""

    latency_us: float
    p10_us: float
    p90_us: float
    repeats: int
    outliers: float = 0.0
    drift: float = 0.0

    @classmethod
    def of(cls, samples_us: Sequence[float]) -> Measurement:
        """From repeats in the order in which they were timed."""
        samples = np.asarray(samples_us, float)
        p10, q1, p50, q3, p90 = np.percentile(samples, (10, 25, 50, 75, 90))
        first, second = samples[:len(samples) // 2], samples[len(samples) // 2:]
        drift = np.median(second) / np.median(first) - 1 if len(first) else 0.0
        return cls(float(p50), float(p10), float(p90), len(samples), float(np.mean(samples > q3 + 3 * (q3 - q1))),
                   float(drift))


class Timer(Protocol):
    """Times calls that do the same work, the next one at each repeat."""

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement: ...


def median_interval(samples_us: np.ndarray) -> float:
    """Relative width of the median's 95 % confidence interval by order statistics (binomial, normal approximation)."""
    ordered = np.sort(samples_us)
    n = len(ordered)
    half = CONFIDENCE * np.sqrt(n) / 2
    low, high = int(max(np.floor(n / 2 - half), 0)), int(min(np.ceil(n / 2 + half), n - 1))
    return float((ordered[high] - ordered[low]) / np.median(ordered))


def repeat(once_us: Callable[[int], float], effort: Effort) -> Measurement:
    """Repeat `once_us(i)` (one timed call, microseconds) as long as the effort says."""
    samples: list[float] = []
    end = time.perf_counter() + effort.seconds
    while len(samples) < effort.most:
        samples.append(once_us(len(samples)))
        if len(samples) >= effort.least and (
                time.perf_counter() > end or median_interval(np.array(samples)) < effort.width):
            break
    return Measurement.of(samples)


class CpuTimer:
    """Wall clock around each call, as the model's own Python would issue it."""

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement:
        def once_us(index: int) -> float:
            call = calls[index % len(calls)]
            start = time.perf_counter_ns()
            call()
            return (time.perf_counter_ns() - start) / 1000
        for call in calls:
            call()
        return repeat(once_us, effort)


class CudaTimer:
    """Events on the device around each call; includes the gaps in which the device waits for Python."""

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement:
        for call in calls:
            call()
        torch.cuda.synchronize()
        return repeat(lambda index: _between_events_us(calls[index % len(calls)]), effort)


def _between_events_us(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end) * 1000)


class CudaGraphTimer:
    """Each call is captured into a CUDA graph once; replays are timed by events on the device.

    Needs a CUDA device. Work that cannot be captured (a kernel that waits for the host) raises torch's own error.
    """

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement:
        graphs = [self._capture(call) for call in calls]

        for graph in graphs:
            graph.replay()
        torch.cuda.synchronize()
        return repeat(lambda index: _between_events_us(graphs[index % len(graphs)].replay), effort)

    @staticmethod
    def _capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # autotuning and allocations happen outside the graph
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph


def make_timer(device: str, mode: str) -> Timer:
    """The timer for `cpu` or `cuda` and one of schema.MODES."""
    if device == "cpu":
        return CpuTimer()
    return CudaGraphTimer() if mode == "cuda_graph" else CudaTimer()


class CpuMarks:
    """Moments inside one pass through a model."""

    def __init__(self) -> None:
        self._ns: list[int] = []

    def mark(self) -> None:
        self._ns.append(time.perf_counter_ns())

    def intervals_us(self) -> list[float]:
        """Between consecutive marks."""
        return [(after - before) / 1000 for before, after in zip(self._ns, self._ns[1:], strict=False)]


class CudaMarks:
    """The same on the device's own time line."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def intervals_us(self) -> list[float]:
        self._events[-1].synchronize()
        return [1000 * before.elapsed_time(after)
                for before, after in zip(self._events, self._events[1:], strict=False)]


def probe_us(device: str) -> float:
    """A fixed piece of work, about a millisecond: comparing two of them shows whether the device runs as fast."""
    a = torch.ones(256 if device == "cpu" else 4096, 256 if device == "cpu" else 4096, device=device)
    return 1e6 * _seconds(device, lambda: a @ a, repeats=9)


def describe_device(device: str, name: str) -> Device:
    """The facts of the device at hand; on a CPU, bandwidth and FLOP/s are measured with `torch`'s own threads."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        clock_hz = getattr(properties, "memory_clock_rate", 0) * 1000
        bandwidth = 2 * clock_hz * getattr(properties, "memory_bus_width", 0) / 8
        memory = properties.total_memory
        label = properties.name
    else:
        label, memory, bandwidth = cpu_name(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0.0
    return Device(name=name, platform=device, label=label, peak_flops=_matmul_flops(device),
                  bandwidth_bytes_s=bandwidth or _copy_bandwidth(device), memory_bytes=memory,
                  cite=f"measured by flashnas profile with torch {torch.__version__} on {torch.get_num_threads()}"
                       " threads")


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _seconds(device: str, call: Callable[[], object], repeats: int = 5) -> float:
    samples = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        samples.append(time.perf_counter() - start)
    return float(np.median(samples[1:]))


def _copy_bandwidth(device: str) -> float:
    source = torch.ones(BEYOND_CACHE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _seconds(device, lambda: target.copy_(source))


def _matmul_flops(device: str) -> float:
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1536, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _seconds(device, lambda: a @ a)
