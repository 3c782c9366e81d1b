"""Latencies of a bench's networks at full width as measured on this CPU: a pass of its own that can be
interrupted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, WorkloadError
from flashnas.base.hints import shown
from flashnas.base.schema import convert
from flashnas.latency.workload import Workload
from flashnas.profiling.llama_cpp.target import free_bytes
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import time_model
from flashnas.training.store import TrainingStore, read_store

FORMAT = 1
NAMES = "latencies*.jsonl"
ROOM = 1.3      # memory that a model is given, over that of its weights: caches, activations, the program
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class LatencyHeader:
    """How the latencies of one journal were measured. workload: of one request, batch 1."""

    flashnas_bench_latencies: int = FORMAT
    device: str
    stack: str
    dtype: str
    workload: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class NetworkLatency:
    """A network at full width: the time until a prompt was read, and that of a generation step."""

    architecture: str = ""
    hash: str
    ttft_ms: float
    tpot_ms: float

    @property
    def key(self) -> str:
        return self.hash


def read_latencies(path: Path) -> tuple[LatencyHeader, dict[str, NetworkLatency]]:
    """How a journal was measured, and its latencies by the hash of the network; BenchError with file and
    line."""
    header, rows = read_store(path, NetworkLatency, BenchError)
    return _header(header, path), {row.hash: row for row in rows}


def _header(header: dict[str, Any], path: Path) -> LatencyHeader:
    if header.get("flashnas_bench_latencies") != FORMAT:
        raise BenchError(f"{path}:1: not the header of measured latencies of format {FORMAT}; got"
                         f" {shown(header)}")
    parsed = convert(header, LatencyHeader, f"{path}:1", BenchError, name="header")
    try:
        Workload(**parsed.workload)
    except (TypeError, WorkloadError) as error:
        raise BenchError(f"{path}:1: damaged header of measured latencies: {error}") from None
    return parsed


def measure(networks: Iterable[Architecture], folder: Path, setup: Setup, workload: Workload,
            progress: Callable[[int, int], None]) -> dict[str, int]:
    """Time each network, at full width with random weights, that the folder's journal for this workload
    lacks.

    Returns:
        Numbers of networks `measured` now, `known` before, and `too_large` for the free memory.

    Raises:
        BenchError: the journal is damaged, was measured otherwise, or is being written by another process.
    """
    by_hash = {network.hash: network for network in networks}
    path = folder / f"latencies-{re.sub(r'[^A-Za-z0-9.]+', '-', workload.name)}.jsonl"
    here = LatencyHeader(device=setup.platform.label(), stack=setup.stack, dtype=setup.dtype_name,
                       workload=workload.to_dict())
    with TrainingStore(path, here.to_dict(), NetworkLatency, BenchError) as store:
        before = _header(store.header, path)
        for name in ("device", "stack", "dtype", "workload"):
            if getattr(before, name) != getattr(here, name):
                raise BenchError(f"{path}: was measured with {name} {shown(getattr(before, name))}, and this"
                                 f" machine has {shown(getattr(here, name))}; move the file away to measure"
                                 f" anew")
        counts = {"measured": 0, "known": sum(map(store.has, by_hash)), "too_large": 0}
        for number, (key, network) in enumerate(by_hash.items(), start=1):
            if not store.has(key) and network.params * BYTES[here.dtype] * ROOM > free_bytes():
                counts["too_large"] += 1
            elif not store.has(key):
                times = time_model(network, workload, 1, setup)
                store.add(NetworkLatency(architecture=network.notation, hash=key, ttft_ms=times.ttft_ms,
                                         tpot_ms=times.tpot_ms))
                counts["measured"] += 1
            progress(number, len(by_hash))
        return counts


def latencies_in(places: Sequence[Path]) -> list[Path]:
    """The journals of measured latencies in some folders."""
    return [path for place in places if place.is_dir() for path in sorted(place.glob(NAMES))]
