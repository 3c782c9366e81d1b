"""Clocks, power, temperature and throttling of the GPU, by NVML (package nvidia-ml-py, extra gpu).

torch locks no clocks. A GPU at its power limit, or a hot one, is slower than the same GPU at other
times. A value is left out where the device does not state it.
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

EVERY_S = 0.5
# what holds a clock below the largest; without idle, and without clocks that somebody set
REASONS = {
    "SwPowerCap": "power limit",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}


def _throttled(nvml: Any, gpu: Any) -> list[str]:
    bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    return [
        text
        for name, text in REASONS.items()
        if bits & getattr(nvml, f"nvmlClocksThrottleReason{name}")
    ]


Questions = dict[str, Callable[[Any, Any], Any]]  # name -> answer of (pynvml, handle of the GPU)
# what does not change while something runs: largest clocks, power limit, modes that cost time
LIMITS: Questions = {
    "max_sm_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "max_memory_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "power_limit_w": lambda nvml, gpu: round(nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000),
    "ecc": lambda nvml, gpu: bool(nvml.nvmlDeviceGetEccMode(gpu)[0]),
    "mig": lambda nvml, gpu: bool(nvml.nvmlDeviceGetMigMode(gpu)[0]),
    "persistence": lambda nvml, gpu: bool(nvml.nvmlDeviceGetPersistenceMode(gpu)),
}
STATE: Questions = {
    "sm_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "power_w": lambda nvml, gpu: round(nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(
        gpu, nvml.NVML_TEMPERATURE_GPU
    ),
    "throttled": _throttled,
}


@contextlib.contextmanager
def _first_gpu() -> Iterator[Callable[[Questions], dict[str, Any]]]:
    """A function that answers questions about the first CUDA device of this process. Raises OSError
    if NVML is not available."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise OSError("the package nvidia-ml-py is not installed") from None
    try:
        nvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES renumbers CUDA's devices, not NVML's
        name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        gpu = nvml.nvmlDeviceGetHandleByUUID(name)
    except nvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from None

    def ask(questions: Questions) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for name, question in questions.items():
            with contextlib.suppress(nvml.NVMLError):
                answers[name] = question(nvml, gpu)
        return answers

    try:
        yield ask
    finally:
        nvml.nvmlShutdown()


def limits() -> dict[str, Any]:
    """The answers to LIMITS, or {"nvml": reason} if NVML is not available."""
    try:
        with _first_gpu() as ask:
            return ask(LIMITS)
    except OSError as error:
        return {"nvml": str(error)}


@contextlib.contextmanager
def watch(*, on: bool) -> Iterator[dict[str, Any]]:
    """Sample the GPU twice a second, in a thread of its own.

    Yields:
        A summary that is complete after the block: the limits, the median and lowest clocks, the
        largest power and temperature, and the share of the samples with each reason of throttling.
        {"nvml": reason} if NVML is not available; empty without `on`.
    """
    summary: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        try:
            ask = stack.enter_context(_first_gpu()) if on else None
        except OSError as error:
            summary["nvml"], ask = str(error), None
        if ask is None:
            yield summary
            return
        samples: list[dict[str, Any]] = []
        over = threading.Event()

        def sample() -> None:
            samples.append(ask(STATE))
            while not over.wait(EVERY_S):
                samples.append(ask(STATE))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield summary
        finally:
            over.set()
            thread.join()
            summary |= {**ask(LIMITS), **_summary(samples)}


def _summary(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c"):
        values = [sample[name] for sample in samples if name in sample]
        if values and name.endswith("mhz"):
            facts |= {name: statistics.median(values), f"least_{name}": min(values)}
        elif values:
            facts[f"most_{name}"] = max(values)
    reasons = Counter(reason for sample in samples for reason in sample.get("throttled", ()))
    if reasons:
        facts["throttled"] = {
            reason: round(count / len(samples), 3) for reason, count in reasons.items()
        }
    return facts
