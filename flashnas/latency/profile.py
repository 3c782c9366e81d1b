"""Profiling: measures the whole operators that a space needs at the batches and contexts of its workloads.

Rows are of kind operator_decode and operator_prefill (see schema.py): a block with its norm and residual, exactly the
module that the model runs. What the table holds already, from the same stack, is not measured again; rows are written
as they come, so an interrupted job goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from flashnas.errors import ConfigError, TableError
from flashnas.hints import one_of
from flashnas.latency.device_timing import (
    ROTATION_BYTES,
    Effort,
    Measurement,
    Timer,
    cpu_name,
    describe_device,
    make_timer,
)
from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable, write_rows
from flashnas.latency.workload import Workload
from flashnas.model import Block
from flashnas.operators import OperatorSpec
from flashnas.operators.layers.attention import KeyValueCache
from flashnas.operators.layers.common import RMSNorm
from flashnas.space.base import SearchSpace

MAX_BATCHES = (1, 8, 32)      # measured for a workload that asks for the largest batch
LEAST_COPIES = 2
WRITE_EVERY_S = 10.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, order=True)
class Item:
    """One row to measure; length: context (decode; 0: any) or tokens (prefill)."""

    phase: str
    operator: str
    hidden: int
    vocab: int
    batch: int
    length: int

    @property
    def kind(self) -> str:
        return f"operator_{self.phase}"

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.operator, self.hidden, self.vocab, self.batch, self.length)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `flashnas profile` was asked. threads: of torch, on a CPU; a deployed model decodes best on few."""

    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 1
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(one_of("--device", self.device, ("cpu", "cuda")))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(one_of("--dtype", self.dtype, ("auto", *DTYPES)))
        if self.threads < 1:
            raise ConfigError(f"--threads must be at least 1; got {self.threads}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def dtype_name(self) -> str:
        return self.dtype if self.dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[self.device]

    @property
    def stack(self) -> str:
        """Name of what ran; rows of another stack are measured anew."""
        threads = f"-{self.threads}t" if self.device == "cpu" else ""
        return f"torch-{torch.__version__}{threads}"

    def table_name(self) -> str:
        label = cpu_name() if self.device == "cpu" else torch.cuda.get_device_name(0)
        words = re.sub(r"\(.*?\)|\b(CPU|Processor|NVIDIA|\d+-Core)\b|@.*", " ", label)
        return re.sub(r"[^a-z0-9]+", "_", f"{self.device} {words}".lower()).strip("_")


# -- what to measure -----------------------------------------------------------------------------------------------


def plan(space: SearchSpace, workloads: Iterable[Workload]) -> list[Item]:
    """All rows that the space needs for the workloads, each once, in a fixed order."""
    meta, vocab = space.model.meta_tokens, space.model.vocab
    items: set[Item] = set()
    for workload, hidden in itertools.product(workloads, space.hidden_sizes):
        batches = MAX_BATCHES if workload.batch == "max" else (int(workload.batch),)
        total = meta + workload.context
        read = meta + workload.prompt_tokens
        for batch in batches:
            items.update(Item("decode", name, hidden, vocab, batch, 0) for name in ("embedding", "head"))
            if read:
                items.add(Item("prefill", "embedding", hidden, vocab, batch, read))
            for spec in space.kinds():
                text = str(spec.resolved(hidden))
                if workload.generated_tokens:
                    lengths = contexts(spec, read + 1, total)
                    items.update(Item("decode", text, hidden, 0, batch, length) for length in lengths)
                if read:
                    items.add(Item("prefill", text, hidden, 0, batch, read))
    return sorted(items)


def contexts(spec: OperatorSpec, first: int, last: int) -> list[int]:
    """Contexts at which a decode step is measured: 0 (any) for recurrent ones, else powers of 4 between the ends."""
    window = getattr(spec, "window_tokens", None)
    if window is None:
        return [0]
    inner = [4**power for power in range(3, 12) if first < 4**power < last]
    edge = [window] if first < window < last else []
    return sorted({first, last, *inner, *edge})


def missing(items: Sequence[Item], folder: Path, stack: str) -> list[Item]:
    """The items that the table in `folder` lacks or has from another stack; all when there is no table."""
    if not (folder / "meta.yaml").exists():
        return list(items)
    table = LatencyTable.load(folder)
    known: set[tuple[Any, ...]] = set()
    for kind in table.kinds:
        if kind.startswith("operator_"):
            rows = table.rows(kind)
            rows = rows[rows["stack"].astype(str) == stack]
            columns = ["operator", "hidden", "vocab", "batch", "context" if kind.endswith("decode") else "tokens"]
            known.update((kind, *row) for row in rows[columns].astype({"operator": str}).itertuples(index=False))
    return [item for item in items if (item.kind, *item.key) not in known]


# -- measuring -----------------------------------------------------------------------------------------------------


def measure(item: Item, specs: dict[str, OperatorSpec], job: Job, timer: Timer, copies_at_most: int) -> Measurement:
    """Time one item; each repeat uses the next copy of weights and state."""
    with torch.inference_mode():
        calls = list(_calls(item, specs, job, copies_at_most))
        return timer.measure(calls, job.effort)


def _calls(item: Item, specs: dict[str, OperatorSpec], job: Job, copies_at_most: int) -> Iterator[Callable[[], object]]:
    device, dtype, batch = job.device, job.torch_dtype, item.batch
    if item.operator in ("embedding", "head"):
        # one per model and read once a token: copies only so that they do not stay in the cache
        copies = _copies(item.vocab * item.hidden * dtype.itemsize, copies_at_most)
        for _ in range(copies):
            weight = torch.randn(item.vocab, item.hidden, dtype=dtype, device=device)
            norm = RMSNorm(item.hidden).to(device, dtype)
            tokens = torch.randint(item.vocab, (batch, item.length or 1), device=device)
            x = torch.randn(batch, item.hidden, dtype=dtype, device=device)
            if item.operator == "embedding":
                yield functools.partial(F.embedding, tokens, weight)
            else:
                yield functools.partial(_head, norm, weight, x)
        return
    spec = specs[item.operator]
    first = Block(spec, item.hidden)
    for _ in range(_copies(sum(p.numel() for p in first.parameters()) * dtype.itemsize, copies_at_most)):
        block = Block(spec, item.hidden).to(device, dtype).eval()
        if item.phase == "prefill":
            x = torch.randn(batch, item.length, item.hidden, dtype=dtype, device=device)
            yield functools.partial(block, x)
        else:
            x = torch.randn(batch, item.hidden, dtype=dtype, device=device)
            state = filled_state(block, batch, item.length, dtype, device)
            yield functools.partial(block.step, x, state)


def _head(norm: RMSNorm, weight_VD: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
    return F.linear(norm(x_BD), weight_VD).argmax(-1)


def _copies(weight_bytes: int, at_most: int) -> int:
    return max(LEAST_COPIES, min(at_most, math.ceil(ROTATION_BYTES / max(weight_bytes, 1))))


def filled_state(block: Block, batch: int, context: int, dtype: torch.dtype, device: str) -> Any:
    """The state before the token that makes the context `context` tokens long; values are random."""
    state = block.mixer.init_state(batch, dtype, device)
    if isinstance(state, KeyValueCache):
        room = min(context, state.window) if state.window else context
        shape = (batch, state.keys_BGTK.shape[1], room, state.keys_BGTK.shape[3])
        return KeyValueCache(torch.randn(shape, dtype=dtype, device=device),
                             torch.randn(shape, dtype=dtype, device=device), context - 1, state.window)
    return state


def profile(space: SearchSpace, workloads: Sequence[Workload], folder: Path, job: Job,
            progress: Callable[[Iterable[Item]], Iterable[Item]] = iter) -> dict[str, int]:
    """Measure what the table in `folder` lacks; returns counts of measured and known rows.

    Raises TableError when the folder holds another device's table. Rows are written every few seconds and at the end,
    also after an interruption.
    """
    items = plan(space, workloads)
    todo = missing(items, folder, job.stack)
    specs = {str(spec.resolved(hidden)): spec for spec in space.kinds() for hidden in space.hidden_sizes}
    with _threads(job.threads):
        device = _device(folder, job)
        timer, rows, written = make_timer(job.device), [], time.monotonic()
        try:
            for item in progress(todo):
                result = measure(item, specs, job, timer, space.max_operators)
                rows.append((item, result))
                if time.monotonic() - written > WRITE_EVERY_S:
                    _write(folder, device, job, timer, rows)
                    rows, written = [], time.monotonic()
        finally:
            _write(folder, device, job, timer, rows)
    return {"measured": len(todo), "known": len(items) - len(todo)}


def _device(folder: Path, job: Job) -> Device:
    if not (folder / "device.yaml").exists():
        return describe_device(job.device, folder.name)
    device = Device.load(folder / "device.yaml")
    here = cpu_name() if job.device == "cpu" else torch.cuda.get_device_name(0)
    if (device.platform, device.label) != (job.device, here):
        raise TableError(f"{folder}: the table is of {device.label or device.name}, but this is {here};"
                         " choose another --out")
    return device


def _write(folder: Path, device: Device, job: Job, timer: Timer, rows: list[tuple[Item, Measurement]]) -> None:
    for phase, column in (("decode", "context"), ("prefill", "tokens")):
        part = [(item, result) for item, result in rows if item.phase == phase]
        if not part:
            continue
        frame = pd.DataFrame([{
            "operator": item.operator, "hidden": item.hidden, "vocab": item.vocab, "batch": item.batch,
            column: item.length, "latency_us": result.latency_us, "p10_us": result.p10_us, "p90_us": result.p90_us,
            "repeats": result.repeats, "dtype": job.dtype_name, "stack": job.stack, "mode": timer.mode,
            "source": "measured"} for item, result in part])
        stack: dict[str, Any] = {"framework": "torch", "version": str(torch.__version__), "mode": timer.mode}
        if job.device == "cpu":
            stack["threads"] = job.threads
        write_rows(folder, f"operator_{phase}", frame, device=device, stacks={job.stack: stack},
                   origin={"measured_by": "flashnas profile"}, append=True)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
