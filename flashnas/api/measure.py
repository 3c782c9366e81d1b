"""Measurements on this device: the rows that a space needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flashnas.api.calling import (
    SPACE,
    Result,
    silent,
    takes,
    vllm_python_option,
    workload_option,
    writable_out,
)
from flashnas.base.settings import Settings, option
from flashnas.base.system import usable_cores
from flashnas.latency.schema import PLATFORMS, RUNTIMES
from flashnas.study.config import params_option, vocab_option

SHARED = (
    "runtime",
    "space",
    "params",
    "vocab",
    "workload",
    "out",
    "threads",
)  # options of every runtime


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Settings, where="profile"):
    gone: ClassVar[dict[str, str]] = {
        "mode": "steps run eagerly on cpu, as a CUDA graph on cuda",
        "cache_type": "llama.cpp keeps keys and values in f16",
    }

    runtime: str = option(
        "torch",
        "the program that is timed: torch, or llama.cpp or vllm in a process of its own, with"
        " random weights",
        choices=RUNTIMES,
    )
    device: str = option("cpu", " or ".join(PLATFORMS), choices=tuple(PLATFORMS))
    space: str = option(
        "nemotron_flash", "family, shipped search space or YAML file", instance=SPACE
    )
    params: str | None = params_option()
    vocab: int | None = vocab_option()
    workload: tuple[str, ...] = workload_option(("decode-8k",), "; may be repeated")
    out: Path | None = option(
        None,
        "table folder, continued if it exists",
        shown="latency_tables/<device name>",
        yaml=False,
    )
    dtype: str = option(
        "auto",
        "float32 or bfloat16",
        shown="bfloat16, on a CPU float32",
        choices=("auto", "float32", "bfloat16"),
    )
    backend: str = option(
        "auto",
        "libraries that compute the operators: auto, torch, fla, mamba-ssm or flash-attn;"
        " part of each row's stack",
        shown="auto, the best",
    )
    threads: Any = option(1, "threads on a CPU, or all: one for each usable core", metavar="N")
    seconds: float = option(
        0.3,
        "longest time for the repeats of one network at one length",
        metavar="S",
        above=0,
        max=3600,
    )
    weights: str | None = option(
        None,
        "type of the weights in llama.cpp: f32, f16, bf16, q8_0, q6_k, q4_0 or q4_k",
        shown="q8_0",
    )
    flash_attention: bool = option(
        False,
        "let llama.cpp compute attention in one pass, as it does by itself; on a CPU this is often"
        " slower",
    )
    vllm_python: str | None = vllm_python_option()
    engine_option: tuple[str, ...] = option(
        (),
        "argument of vllm.LLM with its value in JSON, such as gpu_memory_utilization=0.8; may be"
        " repeated; part of each row's stack",
        metavar="NAME=VALUE",
        yaml=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads == "all":
            object.__setattr__(self, "threads", usable_cores())
        if type(self.threads) is not int or not 1 <= self.threads <= usable_cores():
            self.wrong(
                "threads",
                f"must be all or a whole number from 1 to {usable_cores()}, the usable"
                f" cores; got {self.threads!r:.60}",
            )
        for own in dataclasses.fields(self):
            if own.name in SHARED or getattr(self, own.name) == own.default:
                continue
            able = [name for name in RUNTIMES if RUNTIMES[name].has_option(own.name)]
            if self.runtime not in able:
                rule = f"is for --runtime {' or '.join(able)}; got --runtime {self.runtime}"
                self.wrong(own.name, rule)


@dataclass(frozen=True)
class Measurements(Result):
    """table: the folder. measured, known: rows that were timed now, and that were there. record: of
    the measurement. warnings: what makes the rows doubtful."""

    table: str
    measured: int
    known: int
    record: dict[str, Any]
    warnings: tuple[str, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        return {**values, **values.pop("record")}

    def __str__(self) -> str:
        return (
            f"{self.table}: {self.measured} rows measured, {self.known} were there; use it with"
            f" --table {self.table}"
        )


@takes(ProfileOptions)
def profile(
    options: ProfileOptions, *, progress: Callable[[int, int], None] = silent
) -> Measurements:
    """Measure on this device what a search space needs for some workloads and its table lacks.

    What the table has already, from the same stack and dtype, is kept. An interrupted
    measurement continues where it stopped.

    Further:
        progress (Callable): called with what is done and with all that is to do.

    Returns:
        Measurements: `table`, the folder; rows that were `measured` now and `known` before; the
            `record` of the measurement; `warnings`, what makes the rows doubtful.

    Raises:
        ConfigError: for an option that this machine cannot fulfil, such as cuda without a CUDA
            device.
        TableError: the folder holds the table of another device.

    Example:
        >>> import flashnas as fn
        >>> found = fn.profile(space="tiny", workload=["batch=1,prompt=4,generated=4"], seconds=0.01,
        ...                    out="my_table")
        >>> found.measured > 0
        True
    """
    out = None if options.out is None else writable_out(options)

    from flashnas.latency.workload import timed_workload
    from flashnas.profiling.profile import profile as measure
    from flashnas.space.load import load_operator_space

    space = load_operator_space(
        options.space, "flashnas profile", params=options.params, vocab=options.vocab
    )
    workloads = [timed_workload(text) for text in options.workload]
    target = RUNTIMES[options.runtime].of_options(options)
    folder = out or Path("latency_tables") / target.table_name()
    found = measure(space, workloads, folder, target, progress)
    measured, known = found.pop("measured"), found.pop("known")
    return Measurements(str(folder), measured, known, found, doubts(found))


def doubts(values: dict[str, Any]) -> tuple[str, ...]:
    """What makes measured rows doubtful, one line each."""
    lines = list(values.get("notes", ()))
    if count := values.get("disturbed_networks"):
        rows = ", and the rows count as derived" if values.get("source") == "derived" else ""
        lines.append(
            f"the timings of {count} networks differ by more than 15 %, though repeated{rows}; delete"
            " the folder and profile again when nothing else runs"
        )
    return tuple(lines)
