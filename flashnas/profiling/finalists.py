"""The finalists of a search, timed end to end where the device of the table is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.latency import metrics
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.validation import DISTURBED, measure_in_rounds
from flashnas.profiling.target import Target


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
