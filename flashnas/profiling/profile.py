"""Profiling: measures the whole operators that a space needs at the batches and contexts of its workloads.

Rows are of kind operator_decode and operator_prefill (see schema.py): a block with its norm and residual, exactly the
module that the model runs. What the table holds already, in the same mode and dtype and from the same stack, is not
measured again; rows are written as they come, so an interrupted job goes on where it stopped. What was measured while
the device was slower than usual is measured once more at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from flashnas.base.errors import TableError
from flashnas.latency.schema import Device
from flashnas.latency.table_writer import RowContext, append_entry, write_rows
from flashnas.latency.workload import Workload
from flashnas.profiling.alone import measure_alone
from flashnas.profiling.device_timing import Measurement, describe_device, make_timer, probe_us
from flashnas.profiling.inside_model import measure_in_place
from flashnas.profiling.row_requests import Group, Item, contexts, groups, missing, plan
from flashnas.profiling.setup import Job, device_label
from flashnas.profiling.whole_model import backends_of
from flashnas.space.operator_space import OperatorSpace

__all__ = ["Group", "Item", "Job", "contexts", "groups", "missing", "plan", "profile"]

WRITE_EVERY_S = 10.0
DISTURBED = 0.15    # a drift within a group's rows, or a probe above the job's usual, that calls for measuring again
Rows = dict[Item, Measurement]


def profile(space: OperatorSpace[Any], workloads: Sequence[Workload], folder: Path, job: Job,
            progress: Callable[[Sequence[Group]], Iterable[Group]] = iter) -> dict[str, Any]:
    """Measure what the table in `folder` lacks; returns counts of measured and known rows and the job's record.

    Raises TableError when the folder holds another device's table. Rows are written every few seconds and at the end,
    also after an interruption. The record, also kept under `jobs` in meta.yaml: share of outliers, largest drift, rows
    that were measured twice or still look disturbed, how evenly the device ran, and which library computed which kind
    of operator.
    """
    items = plan(space, workloads)
    backends = backends_of(space.kinds(), max(space.hidden_sizes), job)  # an error here costs nothing yet
    todo = missing(items, folder, stack=job.stack, mode=job.mode_name, dtype=job.dtype_name)
    with job.running():
        device = _device(folder, job)
    done: Rows = {}
    probes: dict[Group, float] = {}
    pending: Rows = {}
    written = time.monotonic()

    def measure(group: Group) -> None:
        nonlocal pending, written
        before = _probe(job)
        fresh = _measure_group(group, space, job)
        probes[group] = max(before, _probe(job))
        done.update(fresh)
        pending.update(fresh)
        if time.monotonic() - written > WRITE_EVERY_S:
            _write(folder, device, job, pending)
            pending, written = {}, time.monotonic()

    again: list[Group] = []
    try:
        for group in progress(groups(todo)):
            measure(group)
        again = [group for group in probes if _disturbed(group, done, probes)]
        for group in progress(again) if again else ():
            measure(group)
    finally:
        _write(folder, device, job, pending)
    if not done:
        return {"measured": 0, "known": len(items) - len(todo)}
    record = {**_record(job, done, probes, again), "backends": backends}
    append_entry(folder, "jobs", record)
    return {"measured": len(todo), "known": len(items) - len(todo), **record}


def _measure_group(group: Group, space: OperatorSpace[Any], job: Job) -> Rows:
    if job.mode_name != "cuda_graph":
        return measure_in_place(group, space, job)
    specs = {str(spec.resolved(group.hidden)): spec for spec in space.kinds()}
    return measure_alone(group.items, specs, job, make_timer(job.device, job.mode_name), space.max_operators)


def _probe(job: Job) -> float:
    with job.running():
        return probe_us(job.device)


def _disturbed(group: Group, rows: Rows, probes: dict[Group, float]) -> bool:
    usual = float(np.median(list(probes.values())))
    return (probes[group] > (1 + DISTURBED) * usual
            or abs(float(np.median([rows[item].drift for item in group.items]))) > DISTURBED)


def _record(job: Job, rows: Rows, probes: dict[Group, float], again: Sequence[Group]) -> dict[str, Any]:
    still = [group for group in again if _disturbed(group, rows, probes)]
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stack": job.stack, "mode": job.mode_name,
        "dtype": job.dtype_name, "rows": len(rows),
        "outliers": round(float(np.mean([row.outliers for row in rows.values()])), 4),
        "largest_drift": round(max(abs(row.drift) for row in rows.values()), 3),
        "measured_twice": sum(len(group.items) for group in again),
        "disturbed": sum(len(group.items) for group in still),
        "probe_us": {"median": round(float(np.median(list(probes.values()))), 1),
                     "max": round(max(probes.values()), 1)}}


def _device(folder: Path, job: Job) -> Device:
    if not (folder / "device.yaml").exists():
        return describe_device(job.device, folder.name)
    device = Device.load(folder / "device.yaml")
    here = device_label(job.device)
    if (device.platform, device.label) != (job.device, here):
        raise TableError(f"{folder}: the table is of {device.label or device.name}, but this is {here};"
                         " choose another --out")
    return device


def _write(folder: Path, device: Device, job: Job, rows: Rows) -> None:
    for phase, column in (("decode", "context"), ("prefill", "tokens")):
        part = [(item, result) for item, result in rows.items() if item.phase == phase]
        if not part:
            continue
        frame = pd.DataFrame([{
            "operator": item.operator, "hidden": item.hidden, "vocab": item.vocab, "batch": item.batch,
            column: item.length, "latency_us": result.latency_us, "p10_us": result.p10_us, "p90_us": result.p90_us,
            "repeats": result.repeats, "dtype": job.dtype_name, "stack": job.stack, "mode": job.mode_name,
            "source": "measured"} for item, result in part])
        write_rows(folder, f"operator_{phase}", frame, RowContext(
            device=device, stacks={job.stack: job.describe_stack()},
            origin={"measured_by": f"flashnas profile, torch {torch.__version__}"}), append=True)
