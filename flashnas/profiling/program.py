"""Program: a runtime that runs whole networks only, in a process of its own, such as llama.cpp or vLLM.

With one thread, times are those that the processor spent for the process: other programs do not change them
much. With several threads they are those of the clock, and the machine must be quiet.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError
from flashnas.latency.memory import check_fits, memory_bytes
from flashnas.latency.schema import Device
from flashnas.latency.workload import Workload
from flashnas.profiling.child_process import RuntimeFailure
from flashnas.profiling.platforms import PLATFORMS, value_in
from flashnas.profiling.target import Measured, Target
from flashnas.profiling.whole_model import decode_contexts

STEPS = 48                      # that are timed at a context
MAX_WHOLE_REQUEST_STEPS = 512   # requests that generate at most this many tokens are timed as a whole
Times = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Program(Target):
    """How a program runs what is timed; its name is the mode of its rows.

    Attributes:
        piece_tokens: attention is computed over the next multiple of this many tokens.
        stated: the options in the stack of a table, by which `of_rows` finds the program again.
        cache_type: of keys and values; "": the dtype.
    """

    profiler = "flashnas.profiling.profile_runtime:profile_runtime"
    piece_tokens: ClassVar[int]
    stated: ClassVar[tuple[str, ...]]
    cache_type: ClassVar[str] = ""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Of the program, and what it was built with."""

    @abstractmethod
    def run(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
            steps: int) -> Times:
        """Time a network with random weights, one sequence at a time.

        Args:
            architecture: one that the program can run.
            prompts: numbers of tokens that are read into an empty cache.
            contexts: for each of them `steps` tokens are generated, of which the last one makes the context
                `context` tokens long; in ascending order, at least `steps` apart.
            steps: generated tokens.

        Returns:
            "prompts" and "contexts": one entry for each, with the milliseconds `wall_ms` and `cpu_ms` of the
            whole prompt, or of one step.

        Raises:
            RuntimeFailure: the program ended without an answer.
        """

    def making_bytes(self, architecture: Architecture) -> int:
        """Memory that this process needs before the program runs."""
        return 0

    @property
    def mode_name(self) -> str:
        return self.name

    def describe_stack(self) -> dict[str, Any]:
        return {"framework": self.name, **{name: getattr(self, name) for name in self.stated},
                "time": "of the processor" if self.threads == 1 else "of the clock", **self.versions()}

    @classmethod
    def of_rows(cls, rows: Any, described: Mapping[str, Any], **_: Any) -> Self:
        return cls(**{name: described[name] for name in cls.stated})

    @property
    def clock(self) -> str:
        """`cpu_ms` or `wall_ms` of what `run` returns."""
        return "cpu_ms" if self.threads == 1 else "wall_ms"

    def table_name(self) -> str:
        """Such as `cpu_epyc_llama_cpp_q8_0`, or `cpu_epyc_llama_cpp_q8_0_2t` with two threads."""
        parts = [PLATFORMS[self.device].table_name(), self.name.replace(".", "_"), self.dtype_name]
        return "_".join([*parts, f"{self.threads}t"] if self.threads > 1 else parts)

    def times(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
              steps: int) -> Times:
        """`run`; raises DeviceError with the network where the program ended without an answer."""
        try:
            return self.run(architecture, prompts, contexts, steps)
        except RuntimeFailure as error:
            raise DeviceError(f"{architecture}: {error}") from None

    def check_memory(self, architectures: Iterable[Architecture], workloads: Sequence[Workload]) -> None:
        """Raises DeviceError if one of the networks needs more memory than is free."""
        free = free_bytes()
        for architecture in architectures:
            needed = max(self.making_bytes(architecture), *(
                memory_bytes(architecture, workload, 1, self.dtype_name, cache_type=self.cache_type)
                for workload in workloads))
            if needed > free:
                raise DeviceError(f"{self.name} is timed with whole networks: one of width"
                                  f" {architecture.hidden} with {len(architecture.operators)} operators needs"
                                  f" {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free; take"
                                  " smaller widths or a shorter workload")

    def check_workload(self, workload: Workload) -> None:
        if workload.batch != 1:
            raise ConfigError(f"{self.name} is timed with one sequence at a time; workload {workload.name}"
                              f" has batch {workload.batch}")

    def time_request(self, architecture: Architecture, workload: Workload, batch: int = 1) -> Measured:
        """Time a request of one sequence. Where it generates at most MAX_WHOLE_REQUEST_STEPS tokens, all its
        steps are timed, else STEPS at each of the contexts of `decode_contexts`."""
        self.check_workload(workload)
        self.check_holds(architecture)
        check_fits(architecture, workload, this_machine(), self.dtype_name, self.cache_type)
        read, generated = architecture.meta_tokens + workload.prompt_tokens, workload.generated_tokens
        steps, parts = STEPS, decode_contexts(workload, architecture.meta_tokens)
        if generated <= MAX_WHOLE_REQUEST_STEPS:
            steps, parts = generated, [(read + generated, 1.0)] if generated else []
        times = self.times(architecture, [read] if read else [],
                           [max(context, steps + 1) for context, _ in parts], steps)
        ttft_ms = times["prompts"][0][self.clock] if read else 0.0
        tpot_ms = sum(share * entry[self.clock] for (_, share), entry in zip(parts, times["contexts"],
                                                                             strict=True))
        return Measured.of(ttft_ms, tpot_ms, workload)


@functools.cache
def this_machine() -> Device:
    """Its memory; the other facts are not known."""
    return Device(name="this machine", platform="cpu", peak_flops=1.0, bandwidth_bytes_s=1.0,
                  memory_bytes=PLATFORMS["cpu"].memory_bytes())


def free_bytes() -> int:
    """Memory that a process can still get, as the system estimates it; all memory where it does not."""
    kilobytes = value_in(Path("/proc/meminfo"), "MemAvailable")
    return 1024 * int(kilobytes.split()[0]) if kilobytes else PLATFORMS["cpu"].memory_bytes()
