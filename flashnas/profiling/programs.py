"""Whole requests in the program that a table's rows are from: torch, or a runtime that people deploy with."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.llama_cpp import MODE, LlamaCpp, check_holds, llama_cpp_like, time_in_llama_cpp
from flashnas.profiling.setup import Setup, setup_like
from flashnas.profiling.whole_model import Measured, time_model

AnySetup = Setup | LlamaCpp


def setup_of(table: LatencyTable, *, dtype: str, mode: str | None = None, backend: str | None = None,
             effort: Effort | None = None, any_stack: bool = False, hint: str = "") -> AnySetup:
    """How this machine runs whole networks as the operators of a table were run; see `setup_like`.

    Raises:
        TableError: this machine is another device or runs another stack.
    """
    if (mode or table.default_mode) == MODE:
        return llama_cpp_like(table, dtype=dtype, any_stack=any_stack, hint=hint)
    return setup_like(table, dtype=dtype, mode=mode, backend=backend, effort=effort, any_stack=any_stack, hint=hint)


def time_request(architecture: Architecture, workload: Workload, batch: int, setup: AnySetup) -> Measured:
    """Time a network with random weights; raises what `time_model` and `time_in_llama_cpp` do."""
    if isinstance(setup, LlamaCpp):
        return time_in_llama_cpp(architecture, workload, setup)
    return time_model(architecture, workload, batch, setup)


def runs(architecture: Architecture, setup: AnySetup) -> bool:
    """True if the program can hold the network."""
    if isinstance(setup, LlamaCpp):
        try:
            check_holds(architecture)
        except ExportError:
            return False
    return True
