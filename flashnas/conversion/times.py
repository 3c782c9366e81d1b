"""Milliseconds of changed models: of a latency table, or measured in llama.cpp on this machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from flashnas.architecture import Architecture
from flashnas.base.documents import convert
from flashnas.base.errors import BudgetError, RunError
from flashnas.base.foreign import read_json
from flashnas.base.system import write_atomic
from flashnas.conversion.choices import (
    LEAST_SAVED,
    NONE,
    Choice,
    Layout,
    Milliseconds,
    budget_of,
    converted,
    key_of,
    kind_of,
)
from flashnas.conversion.config import ConvertConfig
from flashnas.latency.prediction import model_of
from flashnas.latency.workload import CALIBRATIONS, Workload, load_workload

ROUNDS = 3  # of timings in llama.cpp; the median counts
TIMES = "times.json"
BESIDE = "the model beside finalists"


Timed = tuple[float | None, float | None]  # milliseconds of a layout, and of the model beside it


@dataclass(frozen=True, eq=False)
class RequestTimes:
    """What requests to changed models take.

    source: in words. by: name of a calibration, or `llama.cpp` -> milliseconds; the first one
    decides. choices: those that can be had there. timed: layouts -> what each took, and the model
    in the same run; None of a table.
    """

    teacher: Architecture
    source: str
    by: dict[str, Milliseconds]
    choices: list[Choice]
    timed: Callable[[Sequence[Layout]], list[Timed]] = lambda layouts: [(None, None)] * len(layouts)

    @property
    def milliseconds(self) -> Milliseconds:
        return next(iter(self.by.values()))

    def lines(self, kept: Sequence[Choice]) -> list[str]:
        """What one layer of each kind saves, and which kinds are not offered."""
        full = {name: milliseconds(()) for name, milliseconds in self.by.items()}
        kinds = {kind_of(self.teacher, choice): choice for choice in self.choices}
        offers = {kind_of(self.teacher, choice) for choice in kept}
        lines = [
            f"{self.source}: the model takes "
            + ", ".join(f"{value:,.0f} ms ({name})" for name, value in full.items())
        ]
        for kind, choice in kinds.items():
            saved = ", ".join(
                f"{full[name] - milliseconds((choice,)):,.1f} ms ({name})"
                for name, milliseconds in self.by.items()
            )
            unused = "" if kind in offers else "; saves next to nothing, so that it is not offered"
            lines.append(f"  one {kind} saves {saved}{unused}")
        return lines


def load_times(
    config: ConvertConfig,
    teacher: Architecture,
    choices: list[Choice],
    note: Callable[[str], None],
) -> RequestTimes:
    """By the table under both calibrations, or by llama.cpp.

    Raises:
        TableError, WorkloadError: the table cannot answer.
        ExportError: llama.cpp does not hold the model.
    """
    workload = load_workload(config.workload)
    if config.runtime is not None:
        return _llama_cpp(config, workload, teacher, choices, note)
    names = (config.calibration, *(name for name in CALIBRATIONS if name != config.calibration))

    def of(calibration: str) -> Milliseconds:
        model = model_of(config.table, workload, calibration=calibration)
        return lambda layout: float(model.latencies([converted(teacher, layout)])[0])

    by = {name: of(name) for name in names}
    return RequestTimes(teacher, f"{config.table}, {workload.name}", by, choices)


def _llama_cpp(
    config: ConvertConfig,
    workload: Workload,
    teacher: Architecture,
    choices: list[Choice],
    note: Callable[[str], None],
) -> RequestTimes:
    """From whole models with random weights: the teacher, and for each kind of change one in which
    every second layer of the kind has changed. What is measured stays in the folder."""
    from flashnas.profiling.llama_cpp.target import LlamaCpp

    target = LlamaCpp(weights=config.weights, threads=config.threads or 1)
    target.check_holds(teacher)
    held = [choice for choice in choices if target.holds(converted(teacher, (choice,)))]
    kinds: dict[str, list[Choice]] = {}
    for choice in held:
        kinds.setdefault(kind_of(teacher, choice), []).append(choice)
    path = config.out / TIMES
    key = f"{target.stack} {workload} {teacher.hash}"
    recorded = read_json(path, RunError) if path.exists() else {}
    known = convert(recorded, dict[str, dict[str, Annotated[float, Meta(gt=0)]]], path, RunError)
    times = known.setdefault(key, {})

    def measure(models: dict[str, Layout]) -> None:
        """Time requests to these models in turns, unless the folder has all of them."""
        if set(models) <= set(times):
            return
        note(f"timing {len(models)} models in llama.cpp, {ROUNDS} times each")
        rounds = [
            {
                name: target.time_request(converted(teacher, layout), workload).latency_ms
                for name, layout in models.items()
            }
            for _ in range(ROUNDS)
        ]
        for name in models:
            times[name] = statistics.median(values[name] for values in rounds)
        write_atomic(path, json.dumps(known, indent=1))

    def timed(layouts: Sequence[Layout]) -> list[Timed]:
        measure({BESIDE: (), **{key_of(layout): layout for layout in layouts}})
        return [(times[key_of(layout)], times[BESIDE]) for layout in layouts]

    measure({"": (), **{kind: tuple(kinds[kind][::2]) for kind in kinds}})
    saved = {kind: (times[""] - times[kind]) / len(changes[::2]) for kind, changes in kinds.items()}

    def milliseconds(layout: Layout) -> float:
        return float(times[""] - sum(saved[kind_of(teacher, choice)] for choice in layout))

    source = f"llama.cpp in {config.weights}, {workload.name}"
    return RequestTimes(teacher, source, {"llama.cpp": milliseconds}, held, timed)


def savings(config: ConvertConfig, times: RequestTimes, choices: Sequence[Choice]) -> list[float]:
    """The milliseconds that each budget asks to save; BudgetError where the choices cannot."""
    full_ms = times.milliseconds(())
    by = next(iter(times.by))
    if not choices:
        raise BudgetError(
            f"convert.budget_ms: of the model's {full_ms:,.0f} ms ({by}) no change saves more than"
            f" {LEAST_SAVED:.1%}: name another --workload, --table or --calibration"
        )
    saved: dict[int, list[float]] = {}
    for choice in sorted(choices, key=lambda choice: choice.saved_ms):
        saved.setdefault(choice.layer, [0.0]).append(choice.saved_ms)
    fastest = full_ms - sum(values[-1] for values in saved.values())
    if sum(choice.name == NONE for choice in choices) == len(times.teacher.operators):
        fastest += min(values[-1] - values[-2] for values in saved.values())  # one layer stays
    saves_ms = []
    for words in config.budget_ms:
        budget = budget_of(words, full_ms)
        if budget >= full_ms:
            raise BudgetError(
                f"convert.budget_ms: the model itself takes {full_ms:,.0f} ms, which is within"
                f" {budget:,.0f} ms"
            )
        if budget < fastest:
            raise BudgetError(
                f"convert.budget_ms: no layout takes at most {budget:,.0f} ms; the fastest takes"
                f" {fastest:,.0f} ms ({by})"
            )
        saves_ms.append(full_ms - budget)
    return saves_ms
