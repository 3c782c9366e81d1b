"""A table of the tiny space whose times are invented, so that what is true of whole models is
known.
"""

import functools
import zlib

from flashnas.latency.metrics import latency_ms
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS
from flashnas.profiling import profile as profiling
from flashnas.profiling.device_timing import Measurement
from flashnas.profiling.platforms import Cpu, Cuda
from flashnas.profiling.profile import profile
from flashnas.profiling.setup import Setup
from flashnas.space import load_space

CHAT = WORKLOADS["chat"]


def row_us(item):
    """Different for every operator, linear in the width, larger for a prompt, rising with the
    context.
    """
    base = 20 + zlib.crc32(item.operator.split("(")[0].encode()) % 50
    return (
        base * item.hidden / 64 * (30 if item.phase == "prefill" else 1) * (1 + item.length / 5000)
    )


def invent_device(monkeypatch):
    """In place of measuring this machine."""
    for cls in (Cpu, Cuda):
        monkeypatch.setattr(cls, "probe_us", lambda platform: 100.0)
        monkeypatch.setattr(cls, "describe", _invented)


def _invented(platform, name):
    return Device(
        name=name,
        platform=platform.name,
        label=platform.label(),
        peak_flops=1e11,
        bandwidth_bytes_s=1e10,
        memory_bytes=2**33,
    )


def write_invented_table(folder, monkeypatch, modes=("eager",)):
    """modes: the first one is eager, which is asked for; the rows of the others come before it."""
    invent_device(monkeypatch)
    for number, mode in reversed([*enumerate(modes)]):
        monkeypatch.setattr(
            profiling,
            "measure_inside_model",
            lambda group, space, job, n=number, mode=mode: {
                item: Measurement(us := row_us(item) * (1 + n), us, us, 15, mode=mode)
                for item in group.items
            },
        )
        profile(load_space("tiny"), [CHAT], folder, Setup())
    return LatencyTable.load(folder)


def truth(table, *, scale=1.0, model_us=0.0, operator_us=0.0, noise=lambda: 1.0):
    """Times a model as the sum of the table's rows, with planted constants in both phases."""
    bare = LatencyModel(table, CHAT, calibration=None)

    once = functools.cache(bare.estimate)

    def measure(architecture):
        estimate = once(architecture)
        more_ms = (model_us + operator_us * len(architecture.operators)) / 1000
        ttft_ms, tpot_ms = (
            (scale * value + more_ms) * noise() for value in (estimate.ttft_ms, estimate.tpot_ms)
        )
        return {
            "ttft_ms": ttft_ms,
            "tpot_ms": tpot_ms,
            "latency_ms": latency_ms(ttft_ms, tpot_ms, 256),
        }

    return measure
