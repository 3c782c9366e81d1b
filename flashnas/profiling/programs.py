"""Whole requests in the program that a table's rows are from: torch, or one that people deploy with."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.base.errors import TableError
from flashnas.latency.schema import RUNTIMES
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.llama_cpp.target import LlamaCpp
from flashnas.profiling.program import Program
from flashnas.profiling.setup import Setup, setup_like
from flashnas.profiling.vllm.target import Vllm
from flashnas.profiling.whole_model import Measured, time_model

PROGRAMS: dict[str, type[Program]] = {program.name: program for program in (LlamaCpp, Vllm)}
assert tuple(PROGRAMS) == RUNTIMES


def rows_of(table: LatencyTable, runtime: str | None, mode: str | None) -> str | None:
    """The mode of the rows that were measured in a program: `mode`, if that is given.

    Args:
        table: with rows of one or several modes.
        runtime: torch or one of RUNTIMES; None: whatever the rows are from.
        mode: None: the only one of the program, or the default of the table.

    Raises:
        TableError: the rows are of another program.
    """
    if mode is None and runtime in RUNTIMES and runtime in table.modes:
        mode = runtime
    chosen = mode or table.default_mode
    found = chosen if chosen in RUNTIMES else "torch"
    if runtime not in (None, found):
        raise TableError(f"{table.path}: table {table.name} is of {found}; got --runtime {runtime}; leave it out, or"
                         f" measure another table with flashnas profile --runtime {runtime}")
    return mode


def setup_of(table: LatencyTable, *, dtype: str, mode: str | None = None, backend: str | None = None,
             effort: Effort | None = None, any_stack: bool = False, hint: str = "") -> Setup | Program:
    """How this machine runs whole networks as the operators of a table were run; see `setup_like`.

    Raises:
        TableError: this machine is another device or runs another stack.
    """
    program = PROGRAMS.get(mode or table.default_mode)
    if program is not None:
        return program.like(table, dtype=dtype, any_stack=any_stack, hint=hint)
    return setup_like(table, dtype=dtype, mode=mode, backend=backend, effort=effort, any_stack=any_stack, hint=hint)


def time_request(architecture: Architecture, workload: Workload, batch: int, setup: Setup | Program) -> Measured:
    """Time a network with random weights; raises what `time_model` and `Program.time_request` do."""
    if isinstance(setup, Program):
        return setup.time_request(architecture, workload)
    return time_model(architecture, workload, batch, setup)


def runs(architecture: Architecture, setup: Setup | Program) -> bool:
    """True if the program can hold the network."""
    return not isinstance(setup, Program) or setup.holds(architecture)
