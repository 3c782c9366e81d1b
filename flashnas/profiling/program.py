"""Program: what runs whole networks only, in a process of its own, such as llama.cpp or vLLM.

With one thread, times are those that the processor spent for the process: other programs do not change them much. With
several threads they are those of the clock, and the machine must be quiet.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError, ExportError, TableError
from flashnas.base.settings import MAX_THREADS
from flashnas.latency import metrics
from flashnas.latency.memory import check_fits, memory_bytes
from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.profiling.child_process import RuntimeFailure
from flashnas.profiling.platforms import PLATFORMS, device_label
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import Measured, decode_contexts

STEPS = 48                  # that are timed at a context
WHOLE_REQUEST_STEPS = 512   # requests that generate at most this many tokens are timed as a whole


@dataclass(frozen=True, kw_only=True)
class Program(ABC):
    """How a program runs what is timed. Each field decides which mix of operators is fast, and is part of the stack.

    Attributes:
        name: of the program, and the mode of its rows.
        piece_tokens: the program computes attention over the next multiple of this many tokens.
        build_facts: entries of `describe_stack` that differ between builds of one release.
        threads: of the program.

    Raises:
        ConfigError: for an option outside its range, or where the program is not installed.
    """

    name: ClassVar[str]
    piece_tokens: ClassVar[int]
    device: ClassVar[str] = "cpu"
    build_facts: ClassVar[tuple[str, ...]] = ()

    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MAX_THREADS:
            raise ConfigError(f"--threads must be from 1 to {MAX_THREADS}; got {self.threads}")

    @property
    @abstractmethod
    def dtype_name(self) -> str:
        """The dtype column of the rows."""

    @property
    @abstractmethod
    def stack(self) -> str:
        """Name of what runs. Rows of another one are stale."""

    @abstractmethod
    def describe_stack(self) -> dict[str, Any]:
        """The entry of `stack` in meta.yaml; it has what `from_stack` needs."""

    @classmethod
    @abstractmethod
    def from_stack(cls, described: Mapping[str, Any]) -> Self:
        """The program as the rows of a stack were run; raises KeyError if the stack does not say it."""

    @abstractmethod
    def check_holds(self, architecture: Architecture) -> None:
        """Raises ExportError, with the rule that is broken, unless the program can run the network."""

    @abstractmethod
    def run(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int], steps: int,
            ) -> dict[str, list[dict[str, float]]]:
        """Time a network with random weights, one sequence at a time.

        Args:
            architecture: one that the program can run.
            prompts: numbers of tokens that are read into an empty cache.
            contexts: for each of them `steps` tokens are generated, of which the last one makes the context `context`
                tokens long; in ascending order, at least `steps` apart.
            steps: generated tokens.

        Returns:
            "prompts" and "contexts": one entry for each, with the milliseconds `wall_ms` and `cpu_ms` of the whole
            prompt, or of one step.

        Raises:
            RuntimeFailure: the program ended without an answer.
        """

    # -- what follows from it ------------------------------------------------------------------------------------

    @property
    def mode_name(self) -> str:
        """The mode column of the rows."""
        return self.name

    @property
    def clock(self) -> str:
        """`cpu_ms` or `wall_ms` of what `run` returns."""
        return "cpu_ms" if self.threads == 1 else "wall_ms"

    def table_name(self) -> str:
        """Name of the folder that a table gets by default, such as `cpu_epyc_llama_cpp_q8_0`."""
        return f"{Setup(device=self.device).table_name()}_{self.name.replace('.', '_')}_{self.dtype_name}"

    def times(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
              steps: int) -> dict[str, list[dict[str, float]]]:
        """`run`; raises DeviceError with the network where the program ended without an answer."""
        try:
            return self.run(architecture, prompts, contexts, steps)
        except RuntimeFailure as error:
            raise DeviceError(f"{architecture}: {error}") from None

    def holds(self, architecture: Architecture) -> bool:
        """True if the program can run the network."""
        try:
            self.check_holds(architecture)
        except ExportError:
            return False
        return True

    def making_bytes(self, architecture: Architecture) -> int:
        """Memory that this process needs before the program runs the network."""
        return 0

    def check_memory(self, architectures: Iterable[Architecture], workloads: Sequence[Workload]) -> None:
        """Raises DeviceError if a network needs more memory than is free, before anything of it is built."""
        free = free_bytes()
        for architecture in architectures:
            needed = max(self.making_bytes(architecture), *(
                memory_bytes(architecture, workload, 1, self.dtype_name) for workload in workloads))
            if needed > free:
                raise DeviceError(f"{self.name} is timed with whole networks: one of width {architecture.hidden} with"
                                  f" {len(architecture.operators)} operators needs {needed / 1e9:.1f} GB of memory, but"
                                  f" {free / 1e9:.1f} GB are free; take smaller widths or a shorter workload")

    def check_build(self, where: str, described: Mapping[str, Any], end: str = "") -> None:
        """Raises TableError if rows are of another build of the same release.

        Args:
            where: the table, for the message.
            described: its entry of `stack`, as `describe_stack` gives it.
            end: of the message.
        """
        here = self.describe_stack()
        for name in self.build_facts:
            if described.get(name) not in (None, here[name]):
                raise TableError(f"{where} was measured with another build of {self.name}: its {name} is"
                                 f" {described[name]}, that of this machine {here[name]}; measure it anew in another"
                                 f" folder{end}")

    def check_workload(self, workload: Workload) -> None:
        """Raises ConfigError unless the workload is of one sequence."""
        if workload.batch != 1:
            raise ConfigError(f"{self.name} is timed with one sequence at a time; workload {workload.name} has batch"
                              f" {workload.batch}")

    def time_request(self, architecture: Architecture, workload: Workload, device: Device | None = None) -> Measured:
        """Time a request of one sequence: its prompt, and its mean step.

        Where it generates at most WHOLE_REQUEST_STEPS tokens, all its steps are timed, else STEPS at each of the
        contexts of `decode_contexts`.

        Args:
            architecture: what is run, with random weights.
            workload: prompt and generated tokens.
            device: whose memory it must fit into (None: that of this machine).

        Raises:
            BudgetError: it does not fit into the memory.
            ConfigError: the workload has several sequences.
            ExportError: the program cannot hold the network.
            DeviceError: the program ended without an answer.
        """
        self.check_workload(workload)
        self.check_holds(architecture)
        check_fits(architecture, workload, device or this_machine(), self.dtype_name)
        read, generated = architecture.meta_tokens + workload.prompt_tokens, workload.generated_tokens
        steps, parts = STEPS, decode_contexts(workload, architecture.meta_tokens)
        if generated <= WHOLE_REQUEST_STEPS:
            steps, parts = generated, [(read + generated, 1.0)] if generated else []
        found = self.times(architecture, [read] if read else [],
                           [max(context, steps + 1) for context, _ in parts], steps)
        ttft_ms = found["prompts"][0][self.clock] if read else 0.0
        tpot_ms = sum(share * entry[self.clock] for (_, share), entry in zip(parts, found["contexts"], strict=True))
        return Measured(ttft_ms=ttft_ms, tpot_ms=tpot_ms, latency_ms=metrics.latency_ms(ttft_ms, tpot_ms, generated))

    @classmethod
    def like(cls, table: LatencyTable, *, dtype: str, any_stack: bool = False, hint: str = "") -> Self:
        """The program on this machine as the rows of a table were measured; arguments as those of `setup_like`.

        Raises:
            TableError: this machine is another device, or has another version or build of the program or none.
        """
        rows = table.only(cls.name)
        stacks = sorted({str(name) for frame in rows.frames.values()
                         for name in frame.loc[frame["dtype"] == dtype, "stack"].unique()})
        where, end = f"{table.path}: table {table.name}", f"; {hint}" if hint else ""
        described = table.meta["stacks"].get(stacks[-1], {}) if stacks else {}
        try:
            setup = cls.from_stack(described)
        except KeyError as error:
            raise TableError(f"{where}: its stack does not say how {cls.name} ran: no {error}") from None
        except ConfigError as error:
            raise TableError(f"{where}: {error}") from None
        if any_stack:
            return setup
        if table.device.label != device_label(setup.device):
            raise TableError(f"{where} is of {table.device.label or table.name}, but this is"
                             f" {device_label(setup.device)}{end}")
        if stacks != [setup.stack]:
            raise TableError(f"{where} has rows of {', '.join(stacks)}, but this machine runs {setup.stack}; measure"
                             f" them anew with flashnas profile --runtime {cls.name}{end}")
        setup.check_build(where, described, end)
        return setup


@functools.cache
def this_machine() -> Device:
    """Its memory; the other facts are not known."""
    return Device(name="this machine", platform="cpu", peak_flops=1.0, bandwidth_bytes_s=1.0,
                  memory_bytes=PLATFORMS["cpu"].memory_bytes())


def free_bytes() -> int:
    """Memory that a process can still get, as the system estimates it; all memory where it does not."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return PLATFORMS["cpu"].memory_bytes()
