"""Target: a program on this machine that runs whole networks and can be timed.

Every program answers one question: how long prompts and decode steps of a network take (`times`).
Rows of operators follow from the times of several networks (profile.py); what a table predicts is
compared with those of others (flashnas/latency/validation.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceMemoryError, ExportError, TableError
from flashnas.base.process import usable_cores
from flashnas.base.settings import MAX_THREADS, Settings, option
from flashnas.latency.metrics import latency_ms
from flashnas.latency.schema import OPERATOR_KINDS, RUNTIMES
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.workload import PREFILL_PIECE_TOKENS, Workload, memory_bytes
from flashnas.operators import OperatorSpec
from flashnas.profiling.platforms import PLATFORMS, Platform
from flashnas.profiling.row_requests import contexts

# contexts at which a decode step is timed, by Gauss's rule: exact for polynomials of degree 5
CONTEXTS = 3
Steps = range  # of a decode: the numbers of tokens that its steps see, themselves included


class Timings(NamedTuple):
    """Milliseconds of each prompt, and of the mean step of each `Steps`. note: what a reader must
    know of them.
    """

    prompts: list[float]
    steps: list[float]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one request as timed (`flashnas.latency.metrics`). note: as of `Timings`."""

    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    note: str = ""

    def to_dict(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "note"}


@dataclass(frozen=True, kw_only=True)
class Target(Settings, ABC):
    """How a program runs what is timed. Each option decides which mix of operators is fast, and is
    part of the stack.

    Attributes:
        name: of the runtime, as in `flashnas.latency.schema.RUNTIMES`.
        build_facts: entries of `describe_stack` that differ between builds of one release.
        device: a platform of `flashnas.profiling.platforms`.
        cache_type: of keys and values; "": the dtype.
    """

    name: ClassVar[str]
    build_facts: ClassVar[tuple[str, ...]] = ()
    device: ClassVar[str] = "cpu"
    cache_type: ClassVar[str] = ""
    threads: int = option(1, "threads on a CPU", min=1, max=MAX_THREADS)

    # -- what a program states

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
        cls, rows: LatencyTable, described: Mapping[str, Any], *, dtype: str, backend: str | None
    ) -> Self:
        """The target as rows of one mode were measured, or the closest one that this machine has.
        described: the entry of their stack in meta.yaml; KeyError if it lacks something. backend:
        libraries that compute the operators (None: those of the rows)."""

    @abstractmethod
    def table_name(self) -> str:
        """Name of the folder that a table gets by default."""

    @abstractmethod
    def times(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> Timings:
        """Time a network with random weights.

        Args:
            batch: sequences that are read and continued together.
            prompts: lengths, meta tokens included, of prompts that are read into an empty cache.
            steps: equally many steps each, in ascending order, which do not overlap.

        Raises:
            DeviceMemoryError: it does not fit into the memory.
            DeviceError: the program ended without an answer.
        """

    def check_holds(self, network: Architecture) -> None:
        """Raises ExportError, with the rule that is broken, unless the program can run the
        network.
        """

    def check_workload(self, workload: Workload) -> None:
        """Raises ConfigError for requests that the program does not take."""

    def making_bytes(self, network: Architecture) -> int:
        """Memory that this process needs before the program runs."""
        return 0

    def tokens_at_once(self, tokens: int) -> int:
        """How many tokens of the prompts of a batch are read together."""
        return min(tokens, PREFILL_PIECE_TOKENS)

    def timed_steps(self, specs: Sequence[OperatorSpec], first: int, last: int) -> dict[int, Steps]:
        """By the context that a row states: the steps that are timed for it, so that rows answer
        from the context `first` to `last`."""
        lengths = {length for spec in specs for length in contexts(spec, first, last)} - {0}
        return {length: range(length, length + 1) for length in sorted(lengths or {first})}

    def request_steps(self, workload: Workload, meta_tokens: int) -> list[tuple[Steps, float]]:
        """(steps, weight) whose weighted mean is that of all steps of the workload; the weights sum
        to 1.
        """
        return [
            (range(context, context + 1), share)
            for context, share in decode_contexts(workload, meta_tokens)
        ]

    def facts(self, specs: Sequence[OperatorSpec], hidden: int) -> dict[str, Any]:
        """What the record of a measurement says of the operators beside their times."""
        return {}

    # -- what follows from it

    @property
    def platform(self) -> Platform:
        return PLATFORMS[self.device]

    def time_request(self, network: Architecture, workload: Workload, batch: int = 1) -> Measured:
        """Time a request to a network with random weights.

        Raises:
            ConfigError: the program does not take the workload.
            ExportError: the program cannot hold the network.
            DeviceMemoryError, DeviceError: as of `times`.
        """
        self.check_workload(workload)
        self.check_holds(network)
        read = network.meta_tokens + workload.prompt_tokens
        parts = self.request_steps(workload, network.meta_tokens)
        prompts, steps = [read] if read else [], [part for part, _ in parts]
        self.check_memory(network, batch, prompts, steps)
        times = self.times(network, batch, prompts, steps)
        ttft_ms = sum(times.prompts)
        tpot_ms = sum(share * ms for (_, share), ms in zip(parts, times.steps, strict=True))
        return Measured(
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            latency_ms=latency_ms(ttft_ms, tpot_ms, workload.generated_tokens),
            note=times.note,
        )

    def check_memory(
        self, network: Architecture, batch: int, prompts: Sequence[int], steps: Sequence[Steps]
    ) -> None:
        """Raises DeviceMemoryError if a network, its caches and activations need more memory than
        is free. The arguments are those of `times`."""
        read = max(prompts, default=0)
        tokens = max(read, *(part[-1] for part in steps), 1)
        prompt = max(0, read - network.meta_tokens)
        generated = max(0, tokens - network.meta_tokens - prompt)
        request = Workload(prompt_tokens=prompt, generated_tokens=generated or int(not prompt))
        at_once = self.tokens_at_once(batch * max(read, 1))
        needed = max(
            self.making_bytes(network),
            memory_bytes(network, request, batch, self.dtype_name, at_once, self.cache_type),
        )
        free = self.platform.free_bytes()
        if needed > free:
            raise DeviceMemoryError(
                f"a network of width {network.hidden} with {len(network.operators)} operators needs"
                f" {needed / 1e9:.1f} GB with batch {batch} and {tokens} tokens, and"
                f" {free / 1e9:.1f} GB are free"
            )

    def holds(self, network: Architecture) -> bool:
        try:
            self.check_holds(network)
        except ExportError:
            return False
        return True

    @classmethod
    def of_options(cls, options: Any) -> Self:
        """From the options of a command that have the names of the target's own and a value."""
        values = {field.name: getattr(options, field.name, None) for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    @classmethod
    def has_option(cls, name: str) -> bool:
        """True if an option of `flashnas profile` is one of the target's."""
        return name in {field.name for field in fields(cls)}

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


def decode_contexts(workload: Workload, meta_tokens: int) -> list[tuple[int, float]]:
    """(context, weight) whose weighted mean is that of all steps of the workload; the weights sum
    to 1.
    """
    if not workload.generated_tokens:
        return []
    first = meta_tokens + workload.prompt_tokens + 1
    nodes, weights = np.polynomial.legendre.leggauss(CONTEXTS)
    points = np.round(first + (nodes + 1) / 2 * (workload.generated_tokens - 1)).astype(int)
    return [(int(point), float(weights[points == point].sum() / 2)) for point in np.unique(points)]


# -- the target of a table -------------------------------------------------------------------------


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
    any_stack: bool = False,
    hint: str = "",
) -> Target:
    """How this machine runs whole networks as those that the rows of a table come from, in the
    runtime of its rows.

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
        target: Target = cls.of_rows(rows, described, dtype=dtype, backend=backend)
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
    """Rows of a program in a process of its own have its name as their mode."""
    return mode if mode in RUNTIMES else "torch"
