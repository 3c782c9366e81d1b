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
from collections.abc import Callable
from types import ModuleType
from typing import Any, Self

import torch

EVERY_S = 0.5
# what a clock below the largest is held back by; not told: idle, and clocks that somebody set
REASONS = {
    "SwPowerCap": "power limit",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}


class Nvml:
    """The first CUDA device of this process, as NVML sees it. Raises OSError where NVML cannot be
    had.
    """

    def __init__(self) -> None:
        try:
            self._nvml: ModuleType = importlib.import_module("pynvml")
        except ImportError:
            raise OSError("the package nvidia-ml-py is not installed") from None
        try:
            self._nvml.nvmlInit()
            # CUDA_VISIBLE_DEVICES renumbers CUDA's devices, not NVML's
            name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(name)
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from None

    def limits(self) -> dict[str, Any]:
        """What does not change while something runs: largest clocks, power limit, and modes that
        cost time."""
        nvml, handle = self._nvml, self._handle
        return _stated(
            {
                "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
                "max_memory_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(
                    handle, nvml.NVML_CLOCK_MEM
                ),
                "power_limit_w": lambda: round(nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
                "ecc": lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
                "mig": lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
                "persistence": lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle)),
            },
            nvml.NVMLError,
        )

    def now(self) -> dict[str, Any]:
        """sm_mhz, memory_mhz, power_w, temperature_c, and `throttled`, a list of reasons."""
        nvml, handle = self._nvml, self._handle

        def throttled() -> list[str]:
            bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            return [
                text
                for name, text in REASONS.items()
                if bits & getattr(nvml, f"nvmlClocksThrottleReason{name}")
            ]

        return _stated(
            {
                "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
                "power_w": lambda: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
                "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(
                    handle, nvml.NVML_TEMPERATURE_GPU
                ),
                "throttled": throttled,
            },
            nvml.NVMLError,
        )

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def _stated(values: dict[str, Callable[[], Any]], refused: type[Exception]) -> dict[str, Any]:
    stated: dict[str, Any] = {}
    for name, ask in values.items():
        with contextlib.suppress(refused):
            stated[name] = ask()
    return stated


def limits() -> dict[str, Any]:
    """`Nvml.limits`, or the reason why there is none as {"nvml": reason}."""
    try:
        nvml = Nvml()
    except OSError as error:
        return {"nvml": str(error)}
    with contextlib.closing(nvml):
        return nvml.limits()


class Watch:
    """A context that looks at the GPU twice a second, in a thread of its own. on: False watches
    nothing.
    """

    def __init__(self, *, on: bool) -> None:
        self._samples: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._reason, self._limits = "", dict[str, Any]()
        self._nvml: Nvml | None = None
        if on:
            try:
                self._nvml = Nvml()
                self._limits = self._nvml.limits()
            except OSError as error:
                self._reason = str(error)

    def __enter__(self) -> Self:
        if self._nvml is not None:
            self._thread = threading.Thread(target=self._look, args=(self._nvml,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._nvml is not None:
            self._thread.join()
            self._nvml.close()

    def _look(self, nvml: Nvml) -> None:
        while True:
            self._samples.append(nvml.now())
            if self._over.wait(EVERY_S):
                return

    def summary(self) -> dict[str, Any]:
        """The limits; median and lowest clocks; largest power and temperature; share of the looks
        with each reason of throttling. Empty where nothing was watched; {"nvml": reason} where it
        could not be."""
        if self._reason:
            return {"nvml": self._reason}
        facts = dict(self._limits)
        for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c"):
            if values := [sample[name] for sample in self._samples if name in sample]:
                facts |= (
                    {name: statistics.median(values), f"least_{name}": min(values)}
                    if name.endswith("mhz")
                    else {f"most_{name}": max(values)}
                )
        reasons = Counter(
            reason for sample in self._samples for reason in sample.get("throttled", ())
        )
        shares = {reason: round(count / len(self._samples), 3) for reason, count in reasons.items()}
        return {**facts, "throttled": shares} if shares else facts
