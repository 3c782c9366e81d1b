"""The clocks: repeats until a median is known, and CUDA graphs, with a stand-in for torch.cuda."""

import math
import time

import numpy as np
import pytest
from fake_cuda import LAUNCH_US, FakeCuda

from flashnas.base.errors import DeviceError
from flashnas.profiling import timing
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.timing import (
    captured,
    median_interval,
    once_on_cpu,
    once_on_cuda,
    repeated,
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
    assert repeated(steady, 60).ms == pytest.approx(10, rel=1e-2)
    assert len(asked) == timing.FIRST
    warm, asked = counted(lambda i: 10.0)
    repeated(warm, 60, steady_ms=200)
    assert len(asked) == 20, "a GPU is not steady earlier"
    rng = np.random.default_rng(0)
    monkeypatch.setattr(timing, "LEAST", 15)
    for seconds, repeats in ((60, timing.MOST), (1e-9, 15)):
        noisy, asked = counted(lambda i: float(rng.lognormal(3, 1.5)))
        repeated(noisy, seconds)
        assert len(asked) == repeats


# relative times whose median is 1; two modes: 6 of 10 near the shorter one, 4 of 10 far above
NOISES = {
    "normal": lambda rng, sd, n: 1 + sd * rng.standard_normal(n),
    "lognormal": lambda rng, sd, n: np.exp(sd * rng.standard_normal(n)),
    "two modes": lambda rng, sd, n: (
        1 + np.where(rng.random(n) < 0.4, 3 * sd, 0) + sd / 5 * (rng.standard_normal(n) - 0.967)
    ),
}
NOISY = [(name, sd) for name in NOISES for sd in (0.01, 0.03, 0.1)]


@pytest.mark.parametrize(("noise", "sd"), NOISY)
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(noise, sd):
    rng, runs = np.random.default_rng(0), 1000
    for count in (3, 5, 6, 10, 30):
        drawn = 10 * NOISES[noise](rng, sd, (runs, count))
        found = [median_interval(samples) for samples in drawn]
        held = sum(low <= 10 <= high for low, high in found)
        assert held >= 0.94 * runs, (count, held)
        assert np.isfinite(found[0][1]) == (count >= 6), "fewer than 6 say nothing with 95 %"


@pytest.mark.parametrize(("noise", "sd"), NOISY)
def test_the_interval_holds_though_the_repeats_stop_where_it_is_narrow(noise, sd):
    rng, ends = np.random.default_rng(0), []
    for _ in range(300):
        times_ms = 10 * NOISES[noise](rng, sd, timing.MOST)
        once_ms, asked = counted(times_ms.__getitem__)
        ends.append((*repeated(once_ms, 60), len(asked)))
    held = np.mean([low <= 10 <= high for _, low, high, _ in ends])
    assert held >= 0.95
    certain = [repeats for ms, low, high, repeats in ends if high - low < timing.WIDTH * ms]
    assert certain or sd == 0.1
    assert min(repeats for *_, repeats in ends) >= timing.FIRST


def test_all_looks_together_miss_the_median_as_rarely_as_is_said():
    for first in (timing.FIRST, 8, 11, 20, 50):
        # chance of each number of samples below the median, of those that no look has missed
        chance, before, count, error = np.ones(1), 0, first, timing.FIRST_ERROR
        while before < timing.MOST:
            new = count - before
            tosses = [math.comb(new, heads) / 2**new for heads in range(new + 1)]
            chance = np.convolve(chance, tosses)
            rank = int(median_interval(np.arange(1, count + 1), error)[0])
            chance[:rank] = chance[count + 1 - rank :] = 0
            before, error = count, timing.LATER_ERROR
            count = min(math.ceil(timing.MORE * count), timing.MOST)
        assert chance.sum() >= 1 - timing.ERROR, first


def test_repeats_that_the_time_ends_say_only_what_they_know():
    once_ms, asked = counted(lambda i: 10.0)
    assert repeated(once_ms, 1e-9) == (10.0, 0.0, np.inf)
    assert len(asked) == timing.LEAST


def test_one_thread_has_the_time_of_the_processor_and_several_that_of_the_clock():
    with Torch().running():
        assert once_on_cpu(lambda: time.sleep(0.02)) < 15
    with Torch(threads=2).running():
        assert once_on_cpu(lambda: time.sleep(0.02)) >= 20


def test_a_call_is_captured_once_and_its_replays_are_timed_with_their_launch(cuda):
    replay = captured(lambda: (cuda.kernel(10.0), cuda.kernel(30.0)))
    assert once_on_cuda(replay) == pytest.approx((LAUNCH_US + 40) / 1000)
    assert (cuda.captures, cuda.replays) == (1, 1)
    assert repeated(lambda: once_on_cuda(replay), 60, PLATFORMS["cuda"].steady_ms).ms > 0
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
