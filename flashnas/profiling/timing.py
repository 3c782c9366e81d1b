"""How long a call takes: repeated until its median is certain, on the clock of its device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from flashnas.base.errors import DeviceError
from flashnas.base.text import first_line

CONFIDENCE = 1.96  # two-sided 95 %
LEAST, MOST = 3, 200  # repeats of a call
WIDTH = 0.03  # of the 95 % interval of a median that is exact enough, as a share of it
Call = Callable[[], object]


def median_ms(once_ms: Callable[[], float], seconds: float, steady_ms: float = 0.0) -> float:
    """The median of a timed call, which is repeated until the interval of the median is narrower
    than WIDTH, within LEAST and MOST.

    Args:
        once_ms: makes the call and returns its milliseconds.
        seconds: after which it ends with LEAST repeats.
        steady_ms: of all repeats together, before which it does not end within `seconds`.
    """
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        samples.append(once_ms())
        certain = len(samples) >= MOST or median_interval(samples) < WIDTH
        over = time.perf_counter() > end or (certain and sum(samples) >= steady_ms)
        if over and len(samples) >= LEAST:
            return float(np.median(samples))


def median_interval(samples: Sequence[float]) -> float:
    """Relative width of the median's 95 % confidence interval by order statistics (binomial, normal
    approximation)."""
    ordered, count = np.sort(samples), len(samples)
    half = CONFIDENCE * np.sqrt(count) / 2
    low = max(int(np.floor(count / 2 - half)), 0)
    high = min(int(np.ceil(count / 2 + half)), count - 1)
    return float((ordered[high] - ordered[low]) / np.median(ordered))


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
