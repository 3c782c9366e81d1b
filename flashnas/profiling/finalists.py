"""The finalists of a search, timed end to end where the table's device is at hand, and compared with the
budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.latency import metrics
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.validation import measure_in_rounds
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.target import Target, target_like

# of each timing in each round; the same for `flashnas validate`, so that its bounds hold for finalists
EFFORT = Effort(least=3, most=200, seconds=0.3, width=0.03)


def setup_here(model: LatencyModel) -> Target:
    """How this machine times whole models for the table; raises TableError if it is another device or
    stack."""
    return target_like(model.table, dtype=model.dtype, effort=EFFORT)


def measure_finalists(architectures: Sequence[Architecture], model: LatencyModel, setup: Target,
                      note: Callable[[str], None] = lambda _: None) -> dict[str, dict[str, float]]:
    """Hash -> metrics as timed: ttft_ms, tpot_ms, latency_ms and throughput_tok_s. A network that the setup's
    program cannot hold is left out, and with a note one that the device's memory cannot."""
    if not architectures:
        return {}
    workload = model.workload
    able = [a for a in architectures if setup.holds(a)]
    told: set[str] = set()

    def measure(a: Architecture) -> Mapping[str, float]:
        measured = setup.time_request(a, workload, model.batch(a))
        if measured.note and a.hash not in told:
            told.add(a.hash)
            note(f"finalist {a.notation}: {measured.note}")
        return measured.to_dict()

    timed = measure_in_rounds(able, measure, np.random.default_rng(0),
                              left_out=lambda a, reason: note(f"finalist {a.notation}: not timed: {reason}"))
    return {a.hash: _metrics(times["ttft_ms"], times["tpot_ms"], model.batch(a), workload)
            for a, times in timed.items()}


def _metrics(ttft_ms: float, tpot_ms: float, batch: int, workload: Workload) -> dict[str, float]:
    """All metrics from the two medians, so that they agree with each other."""
    read, generated = workload.prompt_tokens, workload.generated_tokens
    return {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms,
            "latency_ms": metrics.latency_ms(ttft_ms, tpot_ms, generated),
            "throughput_tok_s": metrics.throughput_tok_s(ttft_ms, tpot_ms, batch, read, generated)}


def missed(measured: Mapping[str, float], budgets: Iterable[Budget]) -> list[str]:
    """The budgeted metrics that are exceeded as timed; metrics that are not timed are left out."""
    return [budget.metric for budget in budgets
            if budget.metric in measured and not budget.holds(measured[budget.metric])]
