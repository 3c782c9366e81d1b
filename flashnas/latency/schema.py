"""What a latency table consists of: kinds of rows with their columns, and the checked contents of
its YAML files.

A table is a folder: `device.yaml`, `meta.yaml` and one `<kind>.parquet` per kind of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.documents import LocatedDict, convert, read_yaml
from flashnas.base.errors import ConfigError, TableError
from flashnas.base.registry import Registry
from flashnas.base.text import did_you_mean, one_of
from flashnas.operators.kernel import PHASES
from flashnas.operators.kernel_kinds import KERNEL_KINDS, kind_of_rows

FORMAT = 1
SOURCES = ("measured", "imported", "derived", "roofline")  # the most direct first

OPERATOR_KINDS = OPERATOR_DECODE, OPERATOR_PREFILL = "operator_decode", "operator_prefill"


class _RowKinds(Mapping[str, tuple[str, ...]]):
    """Kind of rows -> key columns. No two rows of a kind have the same key in the same dtype;
    a row of another stack (other versions, driver or threads) is stale, and the newer one replaces it.

    The kinds of kernels (operators/kernel_kinds.py) have rows `<kind>_decode`: one step of all
    `batch` sequences, where attention sees `context` tokens, itself included; and `<kind>_prefill`:
    `tokens` tokens of each of `batch` sequences, causal. `gemm` has one kind of rows, with m =
    batch x tokens.

    Two kinds more are whole operators with their norm and residual: `operator` is
    str(spec.resolved(hidden)). `embedding` and `head` (a decode row answers both phases) have
    `vocab`, the others vocab 0. context 0: the time does not depend on the context.
    """

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name in OPERATOR_KINDS:
            length = "context" if name == OPERATOR_DECODE else "tokens"
            return ("operator", "hidden", "vocab", "batch", length)
        kind = kind_of_rows(name)
        columns = kind[0].columns(kind[1] or "decode") if kind else ()
        if not columns:
            raise KeyError(name)
        return columns

    def __iter__(self) -> Iterator[str]:
        for kind in KERNEL_KINDS.values():
            yield from dict.fromkeys(
                kind.rows_name(phase) for phase in PHASES if kind.columns(phase)
            )
        yield from OPERATOR_KINDS

    def __len__(self) -> int:
        return sum(1 for _ in self)


KINDS = _RowKinds()
TEXT_KEYS = ("operator",)
# What can be timed: a Target each. The name of one that runs whole networks only is the mode of its
# rows.
RUNTIMES: Registry[Any] = Registry(
    "runtime",
    "flashnas.runtimes",
    {
        "torch": "flashnas.profiling.torch_target:Torch",
        "llama.cpp": "flashnas.profiling.llama_cpp.target:LlamaCpp",
        "vllm": "flashnas.profiling.vllm.target:Vllm",
    },
    error=ConfigError,
    attribute="name",
    base="flashnas.profiling.target:Target",
)
# platform -> the mode in which torch is timed
PLATFORMS = {"cpu": "eager", "cuda": "cuda_graph"}
# Row columns after the key. NUMBERS are null where the source does not state them.
NUMBERS = ("p10_us", "p90_us", "repeats")
VALUE_COLUMNS = ("latency_us", *NUMBERS, "dtype", "stack", "mode", "source")
UNITS = {
    "latency_us": "microseconds (median)",
    "p10_us": "microseconds",
    "p90_us": "microseconds",
    "memory_bytes": "bytes",
    "bandwidth_bytes_s": "bytes/s",
    "peak_flops": "FLOP/s",
}


# of device.yaml: least and most
FACTS = {
    "peak_flops": (1e3, 1e24),
    "bandwidth_bytes_s": (1e3, 1e18),
    "memory_bytes": (1, 1e18),
    "launch_us": (0, 1e6),
    "bandwidth_share": (0.001, 10),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """Facts about a device. launch_us: shortest time of a small kernel; 0: unknown.
    bandwidth_share: that pointwise kernels reach."""

    name: str
    platform: str
    peak_flops: float
    bandwidth_bytes_s: float
    memory_bytes: int
    launch_us: float = 0.0
    bandwidth_share: float = 0.8
    label: str = ""
    cite: str = ""

    @classmethod
    def load(cls, path: Path) -> Device:
        """Read device.yaml; raises TableError with file, line and rule."""
        data = read_table_yaml(path)
        device = convert(data, cls, error=TableError, name="device", closed=True)
        for key, (low, high) in FACTS.items():
            if not low <= getattr(device, key) <= high:
                raise TableError(
                    f"{data.place(key)}: device.{key} must be from {low:g} to {high:g};"
                    f" got {data[key]!r}"
                )
        if device.platform not in PLATFORMS:
            raise TableError(
                one_of(f"{data.place('platform')}: device.platform", device.platform, PLATFORMS)
            )
        return device


@dataclass(frozen=True, kw_only=True)
class RowsEntry:
    """The rows of one kind. constants: columns with one value for all rows, which files of 0.2.0
    leave out.
    """

    rows: int
    sha256: str
    constants: Mapping[str, str | float | None] | None = None
    origin: Any = None


@dataclass(frozen=True, kw_only=True)
class TableMeta:
    """The content of meta.yaml; jobs and validations are what `flashnas profile` and `validate`
    recorded.
    """

    format: int
    device: str
    units: Mapping[str, Any]
    stacks: Mapping[str, Mapping[str, Any]]  # name in the column `stack` -> framework, version, ..
    kinds: Mapping[str, Any]  # -> RowsEntry
    calibration: Mapping[str, Any] | None = None  # calibration.py
    jobs: list[dict[str, Any]] | None = None
    validations: list[dict[str, Any]] | None = None
    timed_networks: list[str] | None = None


def load_meta(path: Path, device: Device) -> LocatedDict:
    """meta.yaml of the table in the folder `path`; raises TableError with file, line and rule."""
    meta = read_table_yaml(path / "meta.yaml")
    # correlations that are not known are NaN
    convert(meta, TableMeta, error=TableError, finite=False)
    for key, value in (("format", FORMAT), ("device", device.name)):
        if meta[key] != value:
            raise TableError(f"{meta.place(key)}: {key} must be {value!r}; got {meta[key]!r}")
    for key, unit in UNITS.items():
        if meta["units"].get(key) != unit:
            raise TableError(f"{meta.place('units')}: units.{key} must be {unit!r}")
    for kind, entry in meta["kinds"].items():
        if kind not in KINDS:
            raise TableError(
                f"{meta['kinds'].place(kind)}: unknown kind of rows"
                f" {kind!r}{did_you_mean(kind, KINDS)}"
            )
        convert(entry, RowsEntry, meta["kinds"].place(kind), TableError, name=f"kinds.{kind}")
    return meta


def read_table_yaml(path: Path) -> LocatedDict:
    """A YAML file of a table; raises TableError with file, line and rule."""
    try:
        data: LocatedDict = read_yaml(path)
    except ConfigError as error:
        raise TableError(str(error)) from None
    return data
