"""Clocks, power and throttling, with a stand-in that has the names and results of nvidia-ml-py
13.615 (pynvml.py).
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from test_profile import clock, narrow, profiled  # noqa: F401  (fixtures)

from flashnas.api.measure import doubts
from flashnas.latency.table import LatencyTable
from flashnas.profiling import nvml
from flashnas.profiling import profile as profiling
from flashnas.profiling.platforms import PLATFORMS

UUID = "0000-11"


class NVMLError(Exception):
    pass


def not_supported(handle):
    raise NVMLError("Not Supported")


@pytest.fixture
def pynvml(monkeypatch):
    """A GPU at its power limit, whose MIG mode NVML does not state; records what is opened and
    closed.
    """
    fake = ModuleType("pynvml")
    opened = []

    def handle_by_uuid(uuid):
        assert uuid == f"GPU-{UUID}"
        return "handle"

    def clock(values):
        def ask(handle, type):
            assert handle == "handle"
            return values[type]

        return ask

    vars(fake).update(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: opened.append(1),
        nvmlShutdown=lambda: opened.append(-1),
        nvmlDeviceGetHandleByUUID=handle_by_uuid,
        nvmlDeviceGetMaxClockInfo=clock({1: 1980, 2: 2619}),
        nvmlDeviceGetClockInfo=clock({1: 1755, 2: 2619}),
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetPowerUsage=lambda handle: 698_400,
        nvmlDeviceGetTemperature=lambda handle, sensor: 71,
        nvmlDeviceGetEccMode=lambda handle: [1, 1],
        nvmlDeviceGetMigMode=not_supported,
        nvmlDeviceGetPersistenceMode=lambda handle: 1,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x4 | 0x1,
        nvmlClocksThrottleReasonGpuIdle=0x1,
        nvmlClocksThrottleReasonSwPowerCap=0x4,
        nvmlClocksThrottleReasonHwSlowdown=0x8,
        nvmlClocksThrottleReasonSyncBoost=0x10,
        nvmlClocksThrottleReasonSwThermalSlowdown=0x20,
        nvmlClocksThrottleReasonHwThermalSlowdown=0x40,
        nvmlClocksThrottleReasonHwPowerBrakeSlowdown=0x80,
    )
    fake.opened = opened
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID)
    )
    return fake


def test_what_a_gpu_states_is_summed_up(pynvml):
    with nvml.watch(on=True) as summary:
        pass
    assert summary == {
        "max_sm_mhz": 1980,
        "max_memory_mhz": 2619,
        "power_limit_w": 700,
        "ecc": True,
        "persistence": True,
        "sm_mhz": 1755,
        "least_sm_mhz": 1755,
        "memory_mhz": 2619,
        "least_memory_mhz": 2619,
        "most_power_w": 698,
        "most_temperature_c": 71,
        "throttled": {"power limit": 1.0},
    }
    assert sum(pynvml.opened) == 0
    assert len(pynvml.opened) == 2


def test_the_facts_of_a_cuda_device_have_its_clocks(pynvml):
    assert PLATFORMS["cuda"].limits() == (
        ", max_sm_mhz 1980, max_memory_mhz 2619, power_limit_w 700, ecc True, persistence True"
    )


def not_loaded():
    raise NVMLError("Driver Not Loaded")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("pynvml", None, "the package nvidia-ml-py is not installed"),
        ("nvmlDeviceGetHandleByUUID", not_supported, "NVML: Not Supported"),
        ("nvmlInit", not_loaded, "NVML: Driver Not Loaded"),
    ],
)
def test_without_nvml_the_reason_is_recorded(pynvml, monkeypatch, name, value, reason):
    monkeypatch.setitem(sys.modules if name == "pynvml" else vars(pynvml), name, value)
    with nvml.watch(on=True) as summary:
        pass
    assert summary == nvml.limits() == {"nvml": reason}


def test_on_a_cpu_nothing_is_watched():
    with nvml.watch(on=False) as summary:
        pass
    assert summary == {}


def test_a_profile_records_how_the_gpu_ran_and_warns_when_it_was_held_back(
    pynvml,
    profiled,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(profiling, "watch", lambda *, on: nvml.watch(on=True))
    counts = profiled()
    (job,) = LatencyTable.load(tmp_path / "table").meta["jobs"]
    assert job["gpu"]["least_sm_mhz"] == 1755
    assert "the GPU was held back by: power limit (100% of the time)" in doubts(counts)
