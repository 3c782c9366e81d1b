"""The clocks: repeats until a median is known. CUDA graphs: tests/gpu."""

import time

import numpy as np
import pytest

from flashnas.profiling import timing
from flashnas.profiling.timing import (
    median_ms,
    once_on_cpu,
)
from flashnas.profiling.torch_target import Torch


def counted(ms):
    """A clock that says these times in turn, and the times that it was asked."""
    asked = []
    return lambda: asked.append(ms(len(asked))) or asked[-1], asked


def test_repeats_stop_when_the_median_is_known_or_the_time_is_over(monkeypatch):
    steady, asked = counted(lambda i: 10.0 + i % 2 * 0.01)
    assert median_ms(steady, 60) == pytest.approx(10, rel=1e-2)
    assert len(asked) == timing.LEAST
    warm, asked = counted(lambda i: 10.0)
    median_ms(warm, 60, steady_ms=200)
    assert len(asked) == 20, "a GPU is not steady earlier"
    rng = np.random.default_rng(0)
    monkeypatch.setattr(timing, "LEAST", 15)
    for seconds, repeats in ((60, timing.MOST), (1e-9, 15)):
        noisy, asked = counted(lambda i: float(rng.lognormal(3, 1.5)))
        median_ms(noisy, seconds)
        assert len(asked) == repeats


def test_one_thread_has_the_time_of_the_processor_and_several_that_of_the_clock():
    with Torch().running():
        assert once_on_cpu(lambda: time.sleep(0.02)) < 15
    with Torch(threads=2).running():
        assert once_on_cpu(lambda: time.sleep(0.02)) >= 20
