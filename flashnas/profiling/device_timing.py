"""Timing torch on the device at hand: repeats, medians and percentiles, outliers and drift."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from flashnas.base.hints import first_line
from flashnas.base.settings import Settings, option

CONFIDENCE = 1.96  # two-sided 95 %
LAUNCH_REPEATS = 50, 200
SMALL_KERNELS = 8, 128  # in the graphs that show what a launch takes
MAX_LAUNCH = 0.5  # share of a graph's time that may be taken off for its launch
MIN_BUSY_US = (
    200_000  # of all repeats on a GPU: after 15 replays, or 8 ms, it is not yet in a steady state
)
MAX_SECONDS = 3600  # of what is timed together; beyond it is a typing error


@dataclass(frozen=True, kw_only=True)
class Effort(Settings, where="effort"):
    """How long a timing is repeated: until the 95 % interval of each median is narrower than
    `width`, within limits. Inside a model, all operators at one width and length are timed
    together."""

    least: int = option(15, "repeats", min=1)
    most: int = option(400, "repeats")
    seconds: float = option(2.0, "limit of what is timed together", above=0, max=MAX_SECONDS)
    width: float = option(0.05, "of the interval, as a share of the median", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < self.least:
            self.wrong("most", f"must be at least {self.least}; got {self.most}")


@dataclass(frozen=True)
class Measurement:
    """Microseconds per call: median, percentiles, number of timed calls.

    Attributes:
        outliers: share of the repeats that exceed the upper quartile by more than 3 interquartile
            ranges.
        drift: median of the second half over that of the first, minus 1. It shows a device that
            throttles or is shared.
        mode: in which it was timed, where that is not the mode that was asked for.
    """

    latency_us: float
    p10_us: float
    p90_us: float
    repeats: int
    outliers: float = 0.0
    drift: float = 0.0
    mode: str = ""

    @classmethod
    def of(cls, samples_us: Sequence[float]) -> Measurement:
        samples = np.asarray(samples_us, float)
        p10, q1, p50, q3, p90 = np.percentile(samples, (10, 25, 50, 75, 90))
        first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
        drift = np.median(second) / np.median(first) - 1 if len(first) else 0.0
        return cls(
            float(p50),
            float(p10),
            float(p90),
            len(samples),
            float(np.mean(samples > q3 + 3 * (q3 - q1))),
            float(drift),
        )


class Timer(Protocol):
    """Times calls that do the same work, the next one at each repeat."""

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement: ...


class Marks(Protocol):
    """Moments on the clock of a device, and the microseconds between consecutive ones."""

    def mark(self) -> None: ...

    def intervals_us(self) -> list[float]: ...


class CpuMarks:
    """By the wall clock."""

    def __init__(self) -> None:
        self._ns: list[int] = []

    def mark(self) -> None:
        self._ns.append(time.perf_counter_ns())

    def intervals_us(self) -> list[float]:
        return [
            (after - before) / 1000 for before, after in zip(self._ns, self._ns[1:], strict=False)
        ]


class CudaMarks:
    """On the device's own time line, which includes the gaps in which it waits for Python."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def intervals_us(self) -> list[float]:
        self._events[-1].synchronize()
        return [
            1000 * before.elapsed_time(after)
            for before, after in zip(self._events, self._events[1:], strict=False)
        ]


def _timed_us(marks: Marks, call: Callable[[], object]) -> float:
    marks.mark()
    call()
    marks.mark()
    return marks.intervals_us()[0]


def median_interval(samples_us: np.ndarray) -> float:
    """Relative width of the median's 95 % confidence interval by order statistics (binomial, normal
    approximation)."""
    ordered = np.sort(samples_us)
    n = len(ordered)
    half = CONFIDENCE * np.sqrt(n) / 2
    low, high = int(max(np.floor(n / 2 - half), 0)), int(min(np.ceil(n / 2 + half), n - 1))
    return float((ordered[high] - ordered[low]) / np.median(ordered))


def enough(
    series_us: Collection[list[float]], effort: Effort, end: float, share: float = 1.0
) -> bool:
    """True if series of repeats have all that the effort demands, or `share` of its numbers of
    repeats. end: when its time is over, by time.perf_counter."""
    fewest = min(map(len, series_us))
    return fewest >= share * effort.least and (
        time.perf_counter() > end
        or fewest >= share * effort.most
        or all(median_interval(np.array(samples)) < effort.width for samples in series_us)
    )


def repeat(once_us: Callable[[int], float], effort: Effort, min_us: float = 0.0) -> Measurement:
    """Repeat a timed call.

    Args:
        once_us: makes call number i and returns its microseconds.
        min_us: of all calls together, before which it does not stop within `effort.seconds`.
    """
    samples: list[float] = []
    total_us, end = 0.0, time.perf_counter() + effort.seconds
    while True:
        samples.append(once_us(len(samples)))
        total_us += samples[-1]
        if (total_us >= min_us or time.perf_counter() > end) and enough([samples], effort, end):
            return Measurement.of(samples)


@dataclass(frozen=True)
class EagerTimer:
    """The time around each call, as the model's own Python issues it, by new `marks`. min_us: of
    all repeats."""

    marks: Callable[[], Marks]
    min_us: float = 0.0

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement:
        def once_us(index: int) -> float:
            return _timed_us(self.marks(), calls[index % len(calls)])

        for index in range(len(calls)):
            once_us(index)
        return repeat(once_us, effort, self.min_us)


class NotCapturable(Exception):
    """Work that a CUDA graph cannot hold, with the reason in one line."""


class CudaGraphTimer:
    """All calls are captured one after the other into one CUDA graph, with one pool for their
    intermediate tensors. Its replays are timed on the device and divided by the number of calls.
    launch: whether that of the graph counts, which a model pays once a step. Raises NotCapturable:
    what waits for the host is found before the capture, since a capture that fails leaves torch's
    allocator in a state of its own."""

    def __init__(self, *, launch: bool) -> None:
        self.launch = launch
        self._launch_us: float | None = None

    def measure(self, calls: Sequence[Callable[[], object]], effort: Effort) -> Measurement:
        graph, off_us = self._capture(calls), 0.0 if self.launch else self.launch_us()
        graph.replay()
        torch.cuda.synchronize()

        def once_us(_: int) -> float:
            us = _timed_us(CudaMarks(), graph.replay)
            return max(us - off_us, (1 - MAX_LAUNCH) * us) / len(calls)

        return repeat(once_us, effort, MIN_BUSY_US / len(calls))

    def launch_us(self) -> float:
        """What the launch of a graph takes: the time of one without kernels, from graphs with few
        and many of one small kernel. torch does not replay an empty graph."""
        if self._launch_us is None:
            few, many = SMALL_KERNELS
            small, effort = small_kernel(), Effort(least=LAUNCH_REPEATS[0], most=LAUNCH_REPEATS[1])
            graphs = [self._capture([small] * count) for count in SMALL_KERNELS]
            times_us = [
                EagerTimer(CudaMarks).measure([graph.replay], effort).latency_us for graph in graphs
            ]
            each_us = (times_us[1] - times_us[0]) / (many - few)
            self._launch_us = max(times_us[0] - few * each_us, 0.0)
        return self._launch_us

    @staticmethod
    def _capture(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in (
                calls[0],
                calls[0],
                *calls,
            ):  # autotuning and allocations happen outside the graph
                call()
            _check_waits(calls[0])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch.AcceleratorError is one
            raise NotCapturable(first_line(error)) from error
        return graph


def small_kernel() -> Callable[[], object]:
    """A call that launches the smallest kernel; not `zero_`, which is none."""
    return functools.partial(torch.zeros(1, device="cuda").add_, 1)


def _check_waits(call: Callable[[], object]) -> None:
    """Raise NotCapturable if the call makes the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        raise NotCapturable("it makes the host wait for the device") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
