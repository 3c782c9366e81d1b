"""Timing torch on the device at hand: repeats, medians and percentiles, outliers and drift."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from flashnas.base.errors import ConfigError

CONFIDENCE = 1.96        # two-sided 95 %
LONGEST_SECONDS = 3600   # of what is timed together; beyond it is a typing error


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a timing is repeated: until the 95 % interval of each median is narrower than `width`, within limits.

    Attributes:
        least, most: number of repeats.
        seconds: limit for what is timed together (inside a model: all operators at one width and length).
        width: of the interval, as a share of the median.

    Raises:
        ConfigError: for a limit outside its range.
    """

    least: int = 15
    most: int = 400
    seconds: float = 2.0
    width: float = 0.05

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= LONGEST_SECONDS):
            raise ConfigError(f"--seconds must be above 0 and at most {LONGEST_SECONDS}; got {self.seconds!r}")
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"repeats must have 1 <= least <= most; got {self.least} and {self.most}")
        if not 0 < self.width < math.inf:
            raise ConfigError(f"the width of an interval must be above 0; got {self.width!r}")


@dataclass(frozen=True)
class Measurement:
    """Microseconds per call.

    Attributes:
        latency_us: median.
        p10_us, p90_us: percentiles.
        repeats: number of timed calls.
        outliers: share of the repeats that exceed the upper quartile by more than 3 interquartile ranges.
        drift: median of the second half over that of the first, minus 1. It shows a device that throttles or is shared.
    """

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
    """Repeat a timed call.

    Args:
        once_us: makes call number i and returns its microseconds.
        effort: when to stop.
    """
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

    It needs a CUDA device. Work that cannot be captured (a kernel that waits for the host) raises torch's own error.
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
