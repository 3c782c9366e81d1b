"""The target that runs whole networks as those that the rows of a table come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, TableError
from flashnas.base.system import usable_cores
from flashnas.latency import metrics
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.schema import OPERATOR_KINDS, RUNTIMES
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.validation import DISTURBED, measure_in_rounds
from flashnas.profiling.target import Target


def target_like(table: LatencyTable, *, dtype: str, vllm_python: str | None = None) -> Target:
    """How this machine runs whole networks as those that the rows of a table come from, in the
    runtime of its rows. vllm_python: as of `Target.of_rows`.

    Raises:
        TableError: this machine is another device or runs another stack.
    """
    cls = RUNTIMES[table.mode if table.mode in RUNTIMES else "torch"]
    stacks, where = (
        texts(table, "stack", OPERATOR_KINDS, dtype),
        f"{table.path}: table {table.name}",
    )
    if vllm_python and cls.name != "vllm":
        raise TableError(f"{where} is of {cls.name}, and --vllm-python is for one of vLLM")
    described = table.meta["stacks"].get(stacks[-1], {}) if stacks else {}
    try:
        target: Target = cls.of_rows(
            described, device=table.device.platform, dtype=dtype, vllm_python=vllm_python
        )
    except KeyError as error:
        raise TableError(
            f"{where}: its stack does not say how {cls.name} ran: no {error}"
        ) from None
    except ConfigError as error:
        raise TableError(f"{where}: {error}") from None
    here = target.label()
    if table.device.label != here:
        raise TableError(f"{where} is of {table.device.label or table.name}, but this is {here}")
    if target.threads > usable_cores():
        raise TableError(
            f"{where} was timed with {target.threads} threads, but this process may use"
            f" {usable_cores()} cores"
        )
    if stacks != [target.stack]:
        runtime = "" if cls.name == "torch" else f" --runtime {cls.name}"
        raise TableError(
            f"{where} has rows of {', '.join(stacks) or table.stack}, but this machine runs"
            f" {target.stack}; measure them anew with flashnas profile{runtime}"
        )
    return target


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
    held = [a for a in architectures if target.holds(a)]
    timed, left_out, disturbed = measure_in_rounds(
        held,
        lambda a: target.time_request(a, workload, model.batch(a)),
        np.random.default_rng(0),
        rounds=target.rounds,
    )
    for a, reason in left_out.items():
        note(f"finalist {a.notation}: not timed: {reason}")
    for a in held:
        if a in disturbed:
            note(f"finalist {a.notation}: its timings differ by more than {DISTURBED:.0%}")
    # from the two medians, so that all metrics agree with each other
    return {
        a.hash: metrics.of_times(times["ttft_ms"], times["tpot_ms"], model.batch(a), workload)
        for a, times in timed.items()
    }
