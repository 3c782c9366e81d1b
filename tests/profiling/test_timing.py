"""The clocks: repeats until a median is known, and CUDA graphs, with a stand-in for torch.cuda."""

import time

import numpy as np
import pytest
from fake_cuda import LAUNCH_US, FakeCuda

from flashnas.base.errors import DeviceError
from flashnas.profiling import timing
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.timing import (
    captured,
    median_ms,
    once_on_cpu,
    once_on_cuda,
)
from flashnas.profiling.torch_target import Torch


@pytest.fixture
def cuda(monkeypatch):
    device = FakeCuda()
    device.install(monkeypatch)
    return device


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


def test_a_call_is_captured_once_and_its_replays_are_timed_with_their_launch(cuda):
    replay = captured(lambda: (cuda.kernel(10.0), cuda.kernel(30.0)))
    assert once_on_cuda(replay) == pytest.approx((LAUNCH_US + 40) / 1000)
    assert (cuda.captures, cuda.replays) == (1, 1)
    assert median_ms(lambda: once_on_cuda(replay), 60, PLATFORMS["cuda"].steady_ms) > 0
    assert cuda.replays * (LAUNCH_US + 40) >= 200_000


def test_what_waits_for_the_host_is_found_before_the_capture(cuda):
    with pytest.raises(DeviceError, match="hold it: called a synchronizing CUDA operation"):
        captured(lambda: (cuda.kernel(1.0), cuda.wait()))
    assert cuda.captures == 0
    assert cuda.debug == "default"
    cuda.refuses = "CUDA error: operation failed due to a previous error during capture\nmore"
    with pytest.raises(
        DeviceError, match=r"CUDA error: operation failed due to a previous error during capture$"
    ):
        captured(lambda: cuda.kernel(1.0))
    cuda.refuses = ""

    def broken():
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape"):
        captured(broken)
