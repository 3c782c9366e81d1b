"""Repeated timings: effort, medians, percentiles, outliers and drift, and calls as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flashnas.base.errors import DeviceMemoryError
from flashnas.base.settings import Settings, option
from flashnas.base.text import first_line
from flashnas.latency.row_requests import RowRequest

CONFIDENCE = 1.96  # two-sided 95 %
MAX_SECONDS = 3600  # of what is timed together; beyond it is a typing error
Call = Callable[[], object]


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
        mode: in which it was timed, if that is not the mode that was asked for.
        note: why it was timed in another mode.
    """

    latency_us: float
    p10_us: float
    p90_us: float
    repeats: int
    outliers: float = 0.0
    drift: float = 0.0
    mode: str = ""
    note: str = ""

    @classmethod
    def of(cls, samples_us: Sequence[float]) -> Measurement:
        samples = np.asarray(samples_us, float)
        p10, q1, p50, q3, p90 = map(float, np.percentile(samples, (10, 25, 50, 75, 90)))
        first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
        drift = float(np.median(second) / np.median(first)) - 1 if len(first) else 0.0
        outliers = float(np.mean(samples > q3 + 3 * (q3 - q1)))
        return cls(p50, p10, p90, len(samples), outliers, drift)


# what was measured for each request, or why it was left out
Results = dict[RowRequest, Measurement | DeviceMemoryError]


def median_interval(samples_us: Sequence[float]) -> float:
    """Relative width of the median's 95 % confidence interval by order statistics (binomial, normal
    approximation)."""
    ordered = np.sort(samples_us)
    n = len(ordered)
    half = CONFIDENCE * np.sqrt(n) / 2
    low, high = int(max(np.floor(n / 2 - half), 0)), int(min(np.ceil(n / 2 + half), n - 1))
    return float((ordered[high] - ordered[low]) / np.median(ordered))


def enough(
    series_us: Collection[Sequence[float]], effort: Effort, end: float, share: float = 1.0
) -> bool:
    """Whether series of repeats satisfy the effort, or `share` of its numbers of repeats.

    Args:
        end: when the time of the effort is over, by time.perf_counter.
    """
    fewest = min(map(len, series_us))
    return fewest >= share * effort.least and (
        time.perf_counter() > end
        or fewest >= share * effort.most
        or all(median_interval(samples) < effort.width for samples in series_us)
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


class NotCapturable(Exception):
    """Work that a CUDA graph cannot hold, with the reason in one line."""


def captured(calls: Sequence[Call]) -> Call:
    """The replay of one CUDA graph of all calls, with one pool for their intermediate tensors.

    Raises:
        NotCapturable: what waits for the host is found before the capture, since a capture that
            fails leaves torch's allocator in a state of its own.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # autotuning and allocations happen outside the graph
        for call in (calls[0], calls[0], *calls):
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
    return graph.replay


def _check_waits(call: Call) -> None:
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
