"""A table of the tiny space whose times are invented, so that what is true of whole models is
known.
"""

import functools
import zlib

from flashnas.latency.prediction import LatencyModel
from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS
from flashnas.profiling.platforms import Cpu, Cuda
from flashnas.profiling.profile import profile
from flashnas.profiling.target import Timings
from flashnas.profiling.torch_target import Torch
from flashnas.space import load_space

CHAT = WORKLOADS["chat"]


def row_us(kind, hidden, length, prefill):
    """Different for every operator, linear in the width, larger for a prompt, rising with the
    length.
    """
    base = 20 + zlib.crc32(kind.encode()) % 50
    return base * hidden / 64 * (30 if prefill else 1) * (1 + length / 5000)


def invented_times(target, network, batch, prompts, steps):
    """The sum of the rows of a network's operators, and of its head."""

    def ms(length, prefill):
        rows_us = [
            row_us(spec.kind, network.hidden, length if prefill or spec.kind == "a" else 0, prefill)
            for spec in network.operators
        ]
        return (row_us("head", network.hidden, 0, False) + sum(rows_us)) / 1000

    return Timings(
        [ms(tokens, True) for tokens in prompts], [ms(part[-1], False) for part in steps]
    )


def invent_device(monkeypatch):
    """In place of measuring this machine."""
    for cls in (Cpu, Cuda):
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


def write_invented_table(folder, monkeypatch):
    invent_device(monkeypatch)
    monkeypatch.setattr(Torch, "times", invented_times)
    profile(load_space("tiny"), [CHAT], folder, Torch(), rounds=1)
    return LatencyTable.load(folder)


def truth(table, *, scale=1.0, noise=lambda: 1.0):
    """Times a model as a multiple of the sum of the table's rows."""
    once = functools.cache(LatencyModel(table, CHAT).estimate)

    def measure(architecture):
        estimate = once(architecture)
        ttft_ms, tpot_ms = (
            scale * value * noise() for value in (estimate.ttft_ms, estimate.tpot_ms)
        )
        return {
            "ttft_ms": ttft_ms,
            "tpot_ms": tpot_ms,
            "latency_ms": ttft_ms + 256 * tpot_ms,
        }

    return measure
