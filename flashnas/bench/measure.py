"""Latencies of a bench's networks at full width as measured on this CPU: a pass of its own that can be interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, WorkloadError
from flashnas.base.files import append_synced, drop_torn_line, hold_lock
from flashnas.base.hints import shown
from flashnas.bench.journal import is_number, read_lines
from flashnas.latency.workload import Workload
from flashnas.profiling.platforms import device_label
from flashnas.profiling.program import free_bytes
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import time_model

FORMAT = 1
NAMES = "latencies*.jsonl"
ROOM = 1.3      # memory that a model is given, over that of its weights: caches, activations, the program
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How the latencies of one journal were measured. device: for readers. workload: of one request, batch 1."""

    device: str
    stack: str
    dtype: str
    workload: Workload

    def to_dict(self) -> dict[str, Any]:
        return {"flashnas_bench_latencies": FORMAT, "device": self.device, "stack": self.stack, "dtype": self.dtype,
                "workload": self.workload.to_dict()}

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Self:
        """Raises BenchError, with the place, for what is not a header of this format."""
        if not isinstance(data, Mapping) or data.get("flashnas_bench_latencies") != FORMAT:
            raise BenchError(f"{place}: not the header of measured latencies of format {FORMAT}; got {shown(data)}")
        try:
            return cls(device=str(data["device"]), stack=str(data["stack"]), dtype=str(data["dtype"]),
                       workload=Workload(**data["workload"]))
        except (KeyError, TypeError, WorkloadError) as error:
            raise BenchError(f"{place}: damaged header of measured latencies: {error}") from None


def read_latencies(path: Path) -> tuple[Measurement, dict[str, dict[str, float]]]:
    """How a journal was measured, and hash of a network -> `ttft_ms` and `tpot_ms`. Raises BenchError with file and
    line."""
    lines = read_lines(path)
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(lines[1:], start=2):
        if not isinstance(row, Mapping) or not isinstance(row.get("hash"), str) or not all(
                is_number(row.get(name)) for name in ("ttft_ms", "tpot_ms")):
            raise BenchError(f"{path}:{number}: a measured latency needs hash, ttft_ms and tpot_ms; got {shown(row)}")
        found[row["hash"]] = {name: float(row[name]) for name in ("ttft_ms", "tpot_ms")}
    return Measurement.from_dict(lines[0], f"{path}:1"), found


def measure(networks: Iterable[Architecture], folder: Path, setup: Setup, workload: Workload,
            progress: Callable[[int, int], None]) -> dict[str, int]:
    """Time each network that the folder's journal for this workload lacks, with random weights.

    Args:
        networks: at full width; equal ones are timed once.
        folder: of the journals.
        setup: how this machine runs the models.
        workload: of one request, batch 1.
        progress: told the networks that are done and all of them.

    Returns:
        Numbers of networks `measured` now, `known` before, and `too_large` for the free memory of this machine.

    Raises:
        BenchError: the journal is damaged, was measured otherwise, or is being written by another process.
    """
    wanted = {network.hash: network for network in networks}
    path = folder / f"latencies-{re.sub(r'[^A-Za-z0-9.]+', '-', workload.name)}.jsonl"
    header = Measurement(device=device_label(setup.device), stack=setup.stack, dtype=setup.dtype_name,
                         workload=workload)
    with hold_lock(folder / f".{path.name}.lock", BenchError(f"{path}: another process is measuring for it")):
        drop_torn_line(path)
        if not path.exists() or not path.stat().st_size:
            append_synced(path, json.dumps(header.to_dict()))
        found, known = read_latencies(path)
        for name in ("device", "stack", "dtype", "workload"):
            if getattr(found, name) != getattr(header, name):
                raise BenchError(f"{path}: was measured with {name} {shown(getattr(found, name))}, and this machine has"
                                 f" {shown(getattr(header, name))}; move the file away to measure anew")
        counts = {"measured": 0, "known": sum(key in known for key in wanted), "too_large": 0}
        for number, (key, network) in enumerate(wanted.items(), start=1):
            if key not in known and network.params * BYTES[header.dtype] * ROOM > free_bytes():
                counts["too_large"] += 1
            elif key not in known:
                times = time_model(network, workload, 1, setup)
                append_synced(path, json.dumps({"architecture": network.notation, "hash": key, "ttft_ms": times.ttft_ms,
                                              "tpot_ms": times.tpot_ms}))
                counts["measured"] += 1
            progress(number, len(wanted))
        return counts


def latencies_in(places: Sequence[Path]) -> list[Path]:
    """The journals of measured latencies in some folders."""
    return [path for place in places if place.is_dir() for path in sorted(place.glob(NAMES))]
