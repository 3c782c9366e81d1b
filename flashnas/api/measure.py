"""Measurements on this device: the rows that a space needs, and whole models against a table's
predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.api.calling import (
    SPACE,
    TABLE,
    Result,
    calibration_option,
    silent,
    takes,
    workload_option,
    writable_out,
)
from flashnas.base.process import usable_cores
from flashnas.base.settings import MAX_SEED, REQUIRED, Settings, option
from flashnas.latency.schema import MODES, PLATFORMS, RUNTIMES

SHARED = ("runtime", "space", "workload", "out", "threads")  # options of every runtime


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Settings, where="profile"):
    runtime: str = option(
        "torch",
        "the program that is timed: torch, or llama.cpp in a process of its own, with random"
        " weights",
        choices=RUNTIMES,
    )
    device: str = option("cpu", " or ".join(PLATFORMS), choices=tuple(PLATFORMS))
    space: str = option("nemotron_flash", "shipped search space or YAML file", objects=(SPACE,))
    workload: tuple[str, ...] = workload_option(("decode-8k",), "; may be repeated")
    out: Path | None = option(
        None,
        "table folder, continued if it exists",
        metavar="DIR",
        shown="latency_tables/<device name>",
        yaml=False,
    )
    dtype: str = option(
        "auto",
        "float32 or bfloat16",
        shown="the one that multiplies matrices faster",
        choices=("auto", "float32", "bfloat16"),
    )
    mode: str = option(
        "auto",
        "eager or cuda_graph; each is a row of its own",
        shown="eager on cpu, cuda_graph on cuda",
        choices=("auto", *MODES),
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
    cache_type: str | None = option(
        None, "type of keys and values in llama.cpp: f32, f16, bf16 or q8_0", shown="f16"
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

    What the table has already, from the same stack, mode and dtype, is kept. An interrupted
    measurement continues where it stopped.

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

    from flashnas.latency.workload import load_workload
    from flashnas.profiling.profile import profile as measure
    from flashnas.space.load import load_operator_space

    space = load_operator_space(options.space, "flashnas profile")
    workloads = [load_workload(text) for text in options.workload]
    target = RUNTIMES[options.runtime].of_options(options)
    folder = out or Path("latency_tables") / target.table_name()
    found = measure(space, workloads, folder, target, progress)
    measured, known = found.pop("measured"), found.pop("known")
    return Measurements(str(folder), measured, known, found, doubts(found))


def doubts(values: dict[str, Any]) -> tuple[str, ...]:
    """What makes measured rows doubtful, one line each."""
    throttled = ", ".join(
        f"{reason} ({share:.0%} of the time)"
        for reason, share in values.get("gpu", {}).get("throttled", {}).items()
    )
    lines = list(values.get("notes", ()))
    if throttled:
        lines.append(f"the GPU was held back by: {throttled}")
    if count := values.get("disturbed_networks"):
        lines.append(
            f"the three timings of {count} networks differ by more than 15 %; delete the folder and"
            " profile again when nothing else runs"
        )
    return tuple(lines)


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(Settings, where="validate"):
    table: str = option(
        REQUIRED, "latency table that was measured on this machine", objects=(TABLE,), yaml=False
    )
    space: str = option(
        REQUIRED,
        "shipped search space or YAML file whose architectures are built and timed",
        objects=(SPACE,),
    )
    count: int = option(20, "architectures", flag="-n --count", metavar="N", min=1, max=100_000)
    workload: str = workload_option("decode-1k")
    seed: int = option(0, "fixes the architectures", metavar="N", min=0, max=MAX_SEED)
    runtime: str | None = option(
        None,
        "the program that the table was measured in: torch or llama.cpp",
        shown="the table's",
        choices=RUNTIMES,
    )
    mode: str | None = option(None, "eager or cuda_graph", shown="the table's")
    backend: str | None = option(None, "libraries that compute the operators", shown="the table's")
    calibration: str = calibration_option()
    allow_other_stack: bool = option(
        False, "compare even if the table is of another device or stack; nothing is written"
    )


@dataclass(frozen=True)
class ValidationResult(Result):
    """A table's predictions against timed models; as flashnas.latency.validation.Validation, in
    plain figures."""

    table: str
    mode: str
    architectures: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    left_out: list[list[str]]

    def __str__(self) -> str:
        from flashnas.reporting.results import validation_text

        return validation_text(self.to_dict())


@takes(ValidateOptions)
def validate(
    options: ValidateOptions, *, progress: Callable[[int, int], None] = silent
) -> ValidationResult:
    """Build sampled architectures of a space, time them end to end, and compare with a table's
    predictions.

    The residuals are kept in the table, whose 90 % interval follows from them.

    Returns:
        A ValidationResult: `architectures`, each predicted and measured, and `metrics` (errors,
            bias and rank correlation).

    Raises:
        TableError: the table is of another device, stack or runtime.
        SpaceError: the space has too few architectures.

    Example:
        >>> import flashnas as fn
        >>> found = fn.validate(table="my_table", space="tiny", count=2, workload="chat")
        >>> len(found.architectures)
        2
    """
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.validation import store
    from flashnas.latency.validation import validate as compare
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.target import rows_of, target_like
    from flashnas.space.load import load_operator_space

    table = LatencyTable.load(options.table)
    space = load_operator_space(options.space, "flashnas validate")
    workload = load_workload(options.workload)
    mode = rows_of(table, options.runtime, options.mode)
    model = LatencyModel(table, workload, calibration=options.calibration, mode=mode)
    target = target_like(
        table,
        dtype=model.dtype,
        mode=mode,
        backend=options.backend,
        any_stack=options.allow_other_stack,
        hint="--allow-other-stack compares all the same",
    )
    for hidden in space.hidden_sizes:
        model.estimate(space.build(space.kinds(), hidden))  # what the table lacks is said first
    result = compare(
        model,
        space,
        lambda a: target.time_request(a, workload, model.batch(a)).to_dict(),
        count=options.count,
        seed=options.seed,
        progress=progress,
    )
    if not options.allow_other_stack:
        store(result, space, workload, seed=options.seed)
    return ValidationResult(**result.to_dict())
