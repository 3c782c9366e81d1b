"""Networks timed in llama.cpp, in a process of their own, from files with random weights.

With one thread, times are those that the processor spent for the process: other programs do not change them. With
several threads they are those of the clock, and the machine must be quiet.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError, TableError
from flashnas.base.hints import one_of
from flashnas.base.settings import MOST_THREADS
from flashnas.latency import metrics
from flashnas.latency.memory import check_fits
from flashnas.latency.schema import RUNTIMES, Device
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.profiling.platforms import PLATFORMS, device_label
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import Measured, decode_contexts
from flashnas.runtimes.llama_cpp.child import CACHE_TYPES, RuntimeFailure, describe, time_requests

MODE = RUNTIMES[0]  # of the rows
WEIGHTS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0", "q4_0": "q4_0"}  # -> dtype of rows
LIBRARIES = ("xllamacpp", "gguf")
CONTEXT_PIECE = 256         # llama.cpp computes attention over the next multiple of this many tokens
STEPS = 48                  # that are timed at a context; fewer than a piece
WHOLE_REQUEST_STEPS = 512   # requests that generate at most this many tokens are timed as a whole


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    """How llama.cpp runs what is timed. Each field decides which mix of operators is fast, and is part of the stack.

    Attributes:
        weights: type of the weights, one of WEIGHTS.
        threads: of llama.cpp.
        flash_attention: compute attention in one pass. llama.cpp does so unless it is told otherwise; on a CPU that
            can double the time of an attention layer.
        cache_type: of keys and values, one of CACHE_TYPES.

    Raises:
        ConfigError: for an option outside its range, or where llama.cpp is not installed.
    """

    weights: str = "q8_0"
    threads: int = 1
    flash_attention: bool = False
    cache_type: str = "f16"

    device = "cpu"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ConfigError(one_of("--weights", self.weights, WEIGHTS))
        if self.cache_type not in CACHE_TYPES:
            raise ConfigError(one_of("--cache-type", self.cache_type, CACHE_TYPES))
        if self.cache_type == "q8_0" and not self.flash_attention:
            raise ConfigError("--cache-type q8_0 needs --flash-attention: llama.cpp keeps values in 8 bits for it only")
        if not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"--threads must be from 1 to {MOST_THREADS}; got {self.threads}")
        lacking = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(f"llama.cpp is run through {' and '.join(LIBRARIES)}; {' and '.join(lacking)}"
                              f" {'is' if len(lacking) == 1 else 'are'} not installed: pip install"
                              " 'flashnas[llama-cpp]'")

    @property
    def dtype_name(self) -> str:
        """The dtype column of the rows."""
        return WEIGHTS[self.weights]

    @property
    def mode_name(self) -> str:
        return MODE

    @property
    def clock(self) -> str:
        """`cpu_ms` or `wall_ms` of what the child reports."""
        return "cpu_ms" if self.threads == 1 else "wall_ms"

    @property
    def stack(self) -> str:
        """Name of what runs. Rows of another one are stale."""
        attention = "flash" if self.flash_attention else "plain"
        return (f"llama.cpp-xllamacpp-{version('xllamacpp')}-{self.threads}t-{self.weights}-{attention}-attention"
                f"-{self.cache_type}-cache")

    def describe_stack(self) -> dict[str, Any]:
        """The entry of `stack` in meta.yaml."""
        return {"framework": "llama.cpp", "version": version("xllamacpp"), "threads": self.threads,
                "weights": self.weights, "flash_attention": self.flash_attention, "cache_type": self.cache_type,
                "time": "of the processor" if self.threads == 1 else "of the clock", **_build()}

    def table_name(self) -> str:
        """Name of the folder that a table gets by default, such as `cpu_epyc_llama_cpp_q8_0`."""
        return f"{Setup(device=self.device).table_name()}_llama_cpp_{self.weights}"

    def times(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
              steps: int) -> dict[str, list[dict[str, float]]]:
        """`time_requests` of a network with random weights.

        Raises:
            ExportError: llama.cpp cannot hold the network.
            DeviceError: llama.cpp ended without an answer.
        """
        from flashnas.runtimes.llama_cpp.file import write_random_file

        with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
            file = Path(folder) / "model.gguf"
            write_random_file(file, architecture, self.weights)
            try:
                return time_requests(file, prompts=prompts, contexts=contexts, steps=steps, vocab=architecture.vocab,
                                     threads=self.threads, flash_attention=self.flash_attention,
                                     cache_type=self.cache_type)
            except RuntimeFailure as error:
                raise DeviceError(f"{architecture}: {error}") from None


@functools.cache
def _build() -> dict[str, str]:
    try:
        found = describe()
    except RuntimeFailure as error:
        raise DeviceError(str(error)) from None
    return {"build": found["build"], "system": found["system"].strip(" |")}


def check_workload(workload: Workload) -> None:
    """Raises ConfigError unless the workload is of one sequence."""
    if workload.batch != 1:
        raise ConfigError(f"llama.cpp is timed with one sequence at a time; workload {workload.name} has batch"
                          f" {workload.batch}")


def _this_machine() -> Device:
    return Device(name="this machine", platform="cpu", peak_flops=1.0, bandwidth_bytes_s=1.0,
                  memory_bytes=PLATFORMS["cpu"].memory_bytes())


def check_holds(architecture: Architecture) -> None:
    """Raises ExportError, with the rule that is broken, unless llama.cpp can run the network."""
    from flashnas.runtimes.llama_cpp.families import family_of

    family_of(architecture)


def time_in_llama_cpp(architecture: Architecture, workload: Workload, setup: LlamaCpp,
                      device: Device | None = None) -> Measured:
    """Time a request of one sequence: its prompt, and its mean step.

    Where it generates at most WHOLE_REQUEST_STEPS tokens, all its steps are timed, else STEPS at each of the contexts
    of `decode_contexts`.

    Args:
        architecture: what is run, with random weights.
        workload: prompt and generated tokens.
        setup: how llama.cpp runs it.
        device: whose memory it must fit into (None: that of this machine).

    Raises:
        BudgetError: it does not fit into the memory.
        ConfigError: the workload has several sequences.
        ExportError, DeviceError: as `LlamaCpp.times`.
    """
    check_workload(workload)
    check_fits(architecture, workload, device or _this_machine(), setup.dtype_name)
    read, generated = architecture.meta_tokens + workload.prompt_tokens, workload.generated_tokens
    steps, parts = STEPS, [(context, share) for context, share in decode_contexts(workload, architecture.meta_tokens)]
    if generated <= WHOLE_REQUEST_STEPS:
        steps, parts = generated, [(read + generated, 1.0)] if generated else []
    found = setup.times(architecture, [read] if read else [], [max(context, steps + 1) for context, _ in parts], steps)
    ttft_ms = found["prompts"][0][setup.clock] if read else 0.0
    tpot_ms = sum(share * entry[setup.clock] for (_, share), entry in zip(parts, found["contexts"], strict=True))
    return Measured(ttft_ms=ttft_ms, tpot_ms=tpot_ms, latency_ms=metrics.latency_ms(ttft_ms, tpot_ms, generated))


def llama_cpp_like(table: LatencyTable, *, dtype: str, any_stack: bool = False, hint: str = "") -> LlamaCpp:
    """llama.cpp on this machine as the rows of a table were measured; arguments as those of `setup_like`.

    Raises:
        TableError: this machine is another device, or has another llama.cpp or none.
    """
    rows = table.only(MODE)
    stacks = sorted({str(name) for frame in rows.frames.values()
                     for name in frame.loc[frame["dtype"] == dtype, "stack"].unique()})
    where, end = f"{table.path}: table {table.name}", f"; {hint}" if hint else ""
    known = table.meta["stacks"].get(stacks[-1], {}) if stacks else {}
    try:
        setup = LlamaCpp(**{name: known[name] for name in ("weights", "threads", "flash_attention", "cache_type")})
    except KeyError as error:
        raise TableError(f"{where}: its stack does not say how llama.cpp ran: no {error}") from None
    except ConfigError as error:
        raise TableError(f"{where}: {error}") from None
    if any_stack:
        return setup
    if table.device.label != device_label(setup.device):
        raise TableError(f"{where} is of {table.device.label or table.name}, but this is"
                         f" {device_label(setup.device)}{end}")
    if stacks != [setup.stack]:
        raise TableError(f"{where} has rows of {', '.join(stacks)}, but this machine runs {setup.stack}; measure them"
                         f" anew with flashnas profile --runtime llama.cpp{end}")
    return setup
