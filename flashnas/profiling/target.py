"""Target: a runtime on this machine that times whole networks, and rows of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceMemoryError, ExportError, TableError
from flashnas.base.registry import load_object
from flashnas.base.settings import MAX_THREADS, Settings, option, usable_cores
from flashnas.latency.metrics import latency_ms
from flashnas.latency.schema import OPERATOR_KINDS, RUNTIMES
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.platforms import PLATFORMS, Platform

T = TypeVar("T")
Progress = Callable[[int, int], None]  # of parts that are done, and all of them


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one request as timed (`flashnas.latency.metrics`). note: what a reader must know
    of them.
    """

    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    note: str = ""

    @classmethod
    def of(cls, ttft_ms: float, tpot_ms: float, workload: Workload, note: str = "") -> Self:
        return cls(
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            note=note,
            latency_ms=latency_ms(ttft_ms, tpot_ms, workload.generated_tokens),
        )

    def to_dict(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "note"}


@dataclass(frozen=True, kw_only=True)
class Target(Settings, ABC):
    """How a runtime runs what is timed. Each option decides which mix of operators is fast, and is
    part of the stack.

    Attributes:
        name: of the runtime, as in `flashnas.latency.schema.RUNTIMES`.
        profiler: "module:function" of what measures rows.
        build_facts: entries of `describe_stack` that differ between builds of one release.
        device: a platform of `flashnas.profiling.platforms`.
    """

    name: ClassVar[str]
    profiler: ClassVar[str]
    build_facts: ClassVar[tuple[str, ...]] = ()
    device: ClassVar[str] = "cpu"
    threads: int = option(1, "threads on a CPU", min=1, max=MAX_THREADS)

    # -- what a runtime states

    @property
    @abstractmethod
    def dtype_name(self) -> str:
        """The dtype column of the rows."""

    @property
    @abstractmethod
    def mode_name(self) -> str:
        """The mode column of the rows."""

    @property
    @abstractmethod
    def stack(self) -> str:
        """Name of the software that runs. Rows of another one are stale."""

    @abstractmethod
    def describe_stack(self) -> dict[str, Any]:
        """The entry of `stack` in meta.yaml; it has what `of_rows` needs."""

    @classmethod
    @abstractmethod
    def of_rows(
        cls,
        rows: LatencyTable,
        described: Mapping[str, Any],
        *,
        dtype: str,
        backend: str | None,
        effort: Effort,
    ) -> Self:
        """The target as rows of one mode were measured, or the closest one that this machine has.
        described: the entry of their stack in meta.yaml; KeyError if it lacks something. backend:
        libraries that compute the operators (None: those of the rows)."""

    @abstractmethod
    def table_name(self) -> str:
        """Name of the folder that a table gets by default."""

    @abstractmethod
    def time_request(self, architecture: Architecture, workload: Workload, batch: int) -> Measured:
        """Time a network with random weights.

        Raises:
            DeviceMemoryError: it does not fit into the memory.
            ExportError: the runtime cannot hold the network.
            DeviceError: the runtime ended without an answer.
        """

    def check_holds(self, architecture: Architecture) -> None:
        """Raises ExportError, with the rule that is broken, unless the runtime can run the
        network.
        """

    # -- what follows from it

    @property
    def platform(self) -> Platform:
        return PLATFORMS[self.device]

    def profile(
        self, space: Any, workloads: Sequence[Workload], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        """Measure the rows of a space that the table in a folder lacks; see profile.py."""
        measure = load_object(self.profiler)
        measured: dict[str, Any] = measure(space, workloads, folder, self, progress)
        return measured

    def run(self, call: Callable[[], T]) -> T:
        """Call in inference mode with the target's threads, which are restored at the end. Raises
        DeviceMemoryError if the device runs out of memory."""
        self.platform.prepare()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                return call()
        except torch.OutOfMemoryError:
            pass
        finally:
            torch.set_num_threads(before)
        self.platform.forget()  # here, because the error keeps what was allocated
        raise DeviceMemoryError("the device ran out of memory")

    def holds(self, architecture: Architecture) -> bool:
        try:
            self.check_holds(architecture)
        except ExportError:
            return False
        return True

    @classmethod
    def of_options(cls, options: Any) -> Self:
        """From the options of a command that have the names of the target's own and a value."""
        values = {field.name: getattr(options, field.name, None) for field in fields(cls)}
        if "effort" in values:
            values["effort"] = Effort(seconds=options.seconds)
        return cls(**{name: value for name, value in values.items() if value is not None})

    @classmethod
    def has_option(cls, name: str) -> bool:
        """True if an option of `flashnas profile` is one of the target's."""
        return ("effort" if name == "seconds" else name) in {field.name for field in fields(cls)}

    def check_build(self, where: str, described: Mapping[str, Any], end: str = "") -> None:
        """Raises TableError if rows are of another build of the same release. where, end: of the
        message. described: the table's entry of `stack`."""
        here = self.describe_stack() if self.build_facts else {}
        for name in self.build_facts:
            if described.get(name) not in (None, here[name]):
                raise TableError(
                    f"{where} was measured with another build of {self.name}: its {name} is"
                    f" {described[name]}, that of this machine {here[name]}; measure it anew in"
                    f" another folder{end}"
                )


def rows_of(table: LatencyTable, runtime: str | None, mode: str | None) -> str | None:
    """The mode of the rows that were measured in a runtime (None: in any); raises TableError if
    they are of another one. mode: None: the only one of the runtime, or the default of the
    table."""
    if mode is None and runtime != "torch" and runtime in table.modes:
        mode = runtime
    measured_in = _runtime_of(mode or table.default_mode)
    if runtime not in (None, measured_in):
        raise TableError(
            f"{table.path}: table {table.name} is of {measured_in}; got --runtime {runtime};"
            f" leave it out, or measure another table with flashnas profile --runtime {runtime}"
        )
    return mode


def target_like(
    table: LatencyTable,
    *,
    dtype: str,
    mode: str | None = None,
    backend: str | None = None,
    effort: Effort | None = None,
    any_stack: bool = False,
    hint: str = "",
) -> Target:
    """How this machine runs whole networks as the operators of a table were run, in the runtime of
    its rows.

    Args:
        dtype, mode: of the rows (mode None: the table's default).
        backend: as for `of_rows`.
        any_stack: on another device or stack, return the closest target that this machine can run.
        hint: end of the error messages.

    Raises:
        TableError: this machine is another device or runs another stack.
    """
    cls, rows = RUNTIMES[_runtime_of(mode or table.default_mode)], table.only(mode)
    stacks = texts(rows, "stack", OPERATOR_KINDS, dtype)
    where, end = f"{table.path}: table {table.name}", f"; {hint}" if hint else ""
    described = table.meta["stacks"].get(stacks[-1], {}) if stacks else {}
    try:
        target: Target = cls.of_rows(
            rows, described, dtype=dtype, backend=backend, effort=effort or Effort()
        )
    except KeyError as error:
        raise TableError(
            f"{where}: its stack does not say how {cls.name} ran: no {error}"
        ) from None
    except ConfigError as error:
        if backend is not None:  # the choice of the user is wrong, not the table
            raise
        raise TableError(f"{where}: {error}") from None
    if any_stack:
        return target
    here = target.platform.label()
    if table.device.platform != target.device:
        here = f"a machine without {table.device.platform.upper()} ({here})"
    if table.device.label != here:
        raise TableError(
            f"{where} is of {table.device.label or table.name}, but this is {here}{end}"
        )
    if target.threads > usable_cores():
        raise TableError(
            f"{where} was timed with {target.threads} threads, but this process may use"
            f" {usable_cores()} cores{end}"
        )
    if stacks != [target.stack]:
        runtime = "" if cls.name == "torch" else f" --runtime {cls.name}"
        raise TableError(
            f"{where} has rows of {', '.join(stacks) or table.stack}, but this machine runs"
            f" {target.stack}; measure them anew with flashnas profile{runtime}{end}"
        )
    target.check_build(where, described, end)
    return target


def _runtime_of(mode: str) -> str:
    """Rows of a runtime that cannot time a part of a network have its name as their mode."""
    return mode if mode in RUNTIMES else "torch"
