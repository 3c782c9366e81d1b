"""The target that runs whole networks as those that the rows of a table come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, TableError
from flashnas.base.process import usable_cores
from flashnas.latency import metrics
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.schema import OPERATOR_KINDS, RUNTIMES
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.validation import DISTURBED, measure_in_rounds
from flashnas.profiling.target import Target


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
    vllm_python: str | None = None,
    any_stack: bool = False,
    hint: str = "",
) -> Target:
    """How this machine runs whole networks as those that the rows of a table come from, in the
    runtime of its rows.

    Args:
        dtype, mode: of the rows (mode None: the table's default).
        backend, vllm_python: as for `of_rows`.
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
            rows, described, dtype=dtype, backend=backend, vllm_python=vllm_python
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
    here = target.label()
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


# -- finalists of a search -------------------------------------------------------------------------


def measure_finalists(
    architectures: Sequence[Architecture],
    model: LatencyModel,
    target: Target,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Hash -> metrics as timed (metrics.of_times). A network that the target's program cannot hold
    is left out, and with a note one that the device's memory cannot."""
    workload = model.workload
    noted: set[str] = set()

    def measure(a: Architecture) -> Mapping[str, float]:
        measured = target.time_request(a, workload, model.batch(a))
        if measured.note and a.hash not in noted:
            noted.add(a.hash)
            note(f"finalist {a.notation}: {measured.note}")
        return measured.to_dict()

    held = [a for a in architectures if target.holds(a)]
    timed, left_out, disturbed = measure_in_rounds(
        held, measure, np.random.default_rng(0), rounds=target.rounds
    )
    for a, reason in left_out.items():
        note(f"finalist {a.notation}: not timed: {reason}")
    for a in held:
        if a in disturbed:
            note(f"finalist {a.notation}: its timings differ by more than {DISTURBED:.0%}")
    # from the two medians, so that all metrics agree with each other
    return {
        a.hash: metrics.of_times(
            times["ttft_ms"],
            times["tpot_ms"],
            model.batch(a),
            workload.prompt_tokens,
            workload.generated_tokens,
        )
        for a, times in timed.items()
    }
