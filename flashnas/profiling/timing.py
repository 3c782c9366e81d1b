"""How long a call takes: repeated until its median is certain, on the clock of its device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from flashnas.base.errors import DeviceError
from flashnas.base.text import first_line

ERROR = 0.05  # probability that the interval at the end of a timing misses the median
LEAST, MOST = 3, 200  # repeats of a call
FIRST, MORE = 7, 1.5  # repeats before the first look at the interval, and factor from look to look
# what the first and each later interval may miss, so that all together miss with ERROR; how many
# samples are below the median is a random walk, of which this is exact
FIRST_ERROR, LATER_ERROR = 2.0 ** (1 - FIRST), 0.011
WIDTH = 0.03  # of the interval of a median that is exact enough, as a share of the median
Call = Callable[[], object]


class Median(NamedTuple):
    """Milliseconds: the median of the repeats, and the interval that holds the median of all
    possible ones with a probability of 1 - ERROR, whatever their distribution: from 0 to infinity
    where there are too few repeats to say more."""

    ms: float
    low_ms: float
    high_ms: float


def repeated(once_ms: Callable[[], float], seconds: float, steady_ms: float = 0.0) -> Median:
    """Repeat a timed call until the interval of its median is narrower than WIDTH, within LEAST and
    MOST.

    The interval is looked at after 7, 11, 17, .. repeats, and each look spends a part of ERROR, so
    that it holds though the repeats stop where it is narrow.

    Args:
        once_ms: makes the call and returns its milliseconds.
        seconds: after which it ends with LEAST repeats.
        steady_ms: of all repeats together, before which it does not end within `seconds`.
    """
    samples: list[float] = []
    total_ms, end = 0.0, time.perf_counter() + seconds
    look, error = FIRST, FIRST_ERROR
    while True:
        samples.append(once_ms())
        total_ms += samples[-1]
        count = len(samples)
        over = count >= LEAST and time.perf_counter() > end
        if not over and (total_ms < steady_ms or count < min(look, MOST)):
            continue
        median = float(np.median(samples))
        low, high = median_interval(samples, error)
        if over or count >= MOST or high - low < WIDTH * median:
            return Median(median, low, high)
        look, error = math.ceil(MORE * count), LATER_ERROR


def median_interval(samples: Sequence[float], error: float = ERROR) -> tuple[float, float]:
    """The narrowest interval between order statistics that misses the median with a probability of
    at most `error`: how many of the samples are below the median is binomial. From 0 to infinity
    where even the smallest and the largest are too near, as of less than 6 for 5 %."""
    count, rank, below = len(samples), 0, 0.0
    log_share = -count * math.log(2)  # of `rank` of them below the median
    while 2 * (below := below + math.exp(log_share)) <= error * (1 + 1e-9):
        log_share += math.log((count - rank) / (rank + 1))
        rank += 1
    if not rank:
        return 0.0, math.inf
    ordered = np.sort(samples)
    return float(ordered[rank - 1]), float(ordered[-rank])


def once_on_cpu(call: Call) -> float:
    """Milliseconds of one call. With one thread they are those that the processor spends for it,
    which other programs change less; with several they are those of the clock."""
    clock = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
    start = clock()
    call()
    return (clock() - start) / 1e6


def once_on_cuda(call: Call) -> float:
    """Milliseconds of one call on the device's time line, with the gaps in which it waits for
    Python.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def captured(call: Call) -> Call:
    """The replay of a call as a CUDA graph. Raises DeviceError for what no graph can hold."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # autotuning and allocations happen outside the graph
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # what waits for the host is found before the capture, since a capture that fails leaves
        # torch's allocator in a state of its own
        torch.cuda.set_sync_debug_mode("error")
        with torch.cuda.stream(side):
            call()
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            call()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch.AcceleratorError is one
        raise DeviceError(f"no CUDA graph can hold it: {first_line(error)}") from error
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return graph.replay
