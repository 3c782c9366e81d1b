"""Target: a program on this machine that runs whole networks and can be timed.

Every program answers one question: how long prompts and decode steps of a network take (`times`).
Rows of operators follow from the times of several networks (profile.py); what a table predicts is
compared with those of others (flashnas/latency/validation.py).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError, ExportError
from flashnas.base.settings import MAX_THREADS, Settings, option
from flashnas.latency.memory import PREFILL_PIECE_TOKENS, memory_bytes
from flashnas.latency.metrics import of_times
from flashnas.latency.schema import Device
from flashnas.latency.workload import Workload
from flashnas.operators import OperatorSpec
from flashnas.profiling.platforms import PLATFORMS, Platform
from flashnas.profiling.row_requests import contexts

# requests that generate at most this many tokens are timed as a whole
MAX_WHOLE_REQUEST_STEPS = 512
STEPS = 48  # that are timed at a context, where programs time several at once
# contexts at which a decode step is timed, by Gauss's rule: exact for polynomials of degree 5
CONTEXTS = 3
Steps = range  # of a decode: the numbers of tokens that its steps see, themselves included


class Timings(NamedTuple):
    """Milliseconds of each prompt, and of the mean step of each `Steps`."""

    prompts: list[float]
    steps: list[float]


@dataclass(frozen=True, kw_only=True)
class Target(Settings, ABC):
    """How a program runs what is timed. Each option decides which mix of operators is fast, and is
    part of the stack.

    Attributes:
        name: of the runtime, as in `flashnas.latency.schema.RUNTIMES`.
        device: a platform of `flashnas.profiling.platforms`.
        piece_tokens: the most tokens of the prompts of a batch that are read together.
        steps_at_once: how many steps of a request are timed together.
        rounds: timings of a network, spread over a measurement; their median counts.
    """

    name: ClassVar[str]
    device: ClassVar[str] = "cpu"
    piece_tokens: ClassVar[int] = PREFILL_PIECE_TOKENS
    steps_at_once: ClassVar[int] = 1
    rounds: ClassVar[int] = 3
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
        cls,
        described: Mapping[str, Any],
        *,
        device: str,
        dtype: str,
        vllm_python: str | None,
    ) -> Self:
        """The target as rows were measured; ConfigError if this machine has none. described: the
        entry of their stack in meta.yaml; KeyError if it lacks something. device: platform of the
        table. vllm_python: interpreter that has vLLM."""

    def table_name(self) -> str:
        """Name of the folder that a table gets by default, such as `cpu_epyc_7b13`."""
        words = re.sub(r"\(.*?\)|\b(CPU|Processor|NVIDIA|\d+-Core)\b|@.*", " ", self.label())
        return re.sub(r"[^a-z0-9]+", "_", f"{self.device} {words}".lower()).strip("_")

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

    def timed_steps(
        self, specs: Sequence[tuple[OperatorSpec, int]], first: int, last: int
    ) -> dict[int, Steps]:
        """By the context that a row states: the steps that are timed for it, so that rows answer
        from the context `first` to `last`. specs: operators with their hidden sizes."""
        lengths = {length for spec in specs for length in contexts(*spec, first, last)} - {0}
        return {length: range(length, length + 1) for length in sorted(lengths or {first})}

    def request_steps(self, workload: Workload, meta_tokens: int) -> list[tuple[Steps, float]]:
        """(steps, weight) whose weighted mean is that of all steps of the workload; the weights sum
        to 1. Where several are timed at once, all steps of a request of at most
        MAX_WHOLE_REQUEST_STEPS."""
        first, generated = meta_tokens + workload.prompt_tokens + 1, workload.generated_tokens
        if self.steps_at_once > 1 and 0 < generated <= MAX_WHOLE_REQUEST_STEPS:
            return [(range(first, first + generated), 1.0)]
        return [
            (range(context + 1 - self.steps_at_once, context + 1), share)
            for context, share in decode_contexts(workload, meta_tokens)
        ]

    # -- what follows from it

    @property
    def platform(self) -> Platform:
        return PLATFORMS[self.device]

    def label(self) -> str:
        """What device.yaml calls the device."""
        return self.platform.label()

    def free_bytes(self) -> int:
        """Memory of the device that the program can allocate."""
        return self.platform.free_bytes()

    def describe_device(self, name: str) -> Device:
        """The facts of the device at hand; what it does not state is measured."""
        return self.platform.describe(name)

    def time_request(
        self, network: Architecture, workload: Workload, batch: int = 1
    ) -> dict[str, float]:
        """Time a request to a network with random weights; returns metrics, as `of_times`.

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
        tpot_ms = sum(share * ms for (_, share), ms in zip(parts, times.steps, strict=True))
        return of_times(float(sum(times.prompts)), float(tpot_ms), batch, workload)

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
        needed = memory_bytes(network, request, batch, self.dtype_name, self.piece_tokens)
        free = self.free_bytes()
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
