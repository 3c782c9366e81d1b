"""Milliseconds of changed models by a latency table, and what programs load of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, MissingRowsError
from flashnas.base.system import write_atomic
from flashnas.base.text import names_text
from flashnas.conversion.choices import (
    NONE,
    Choice,
    Layout,
    budget_of,
    converted,
    kind_of,
    possible,
)
from flashnas.conversion.config import ConvertConfig
from flashnas.families.family import PROGRAMS
from flashnas.families.gguf.families import with_output_gates
from flashnas.families.programs import loading
from flashnas.latency.metrics import HOST
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.workload import load_workload

SPACE = "space.yaml"  # of the operators of a conversion, for `flashnas profile`
LEAST_SAVED = 0.001  # of the request: a choice that saves less is not offered
MOST_OF_HOST = 0.5  # of a request, from which it is said


@dataclass(frozen=True, eq=False)
class RequestTimes:
    """What requests to changed models take.

    source: in words. choices: those that all the programs load which are asked for, and that save
    something.
    """

    teacher: Architecture
    source: str
    model: LatencyModel
    choices: Sequence[Choice] = ()

    def milliseconds(self, layout: Layout) -> float:
        return float(self.model.latencies([converted(self.teacher, layout)])[0])

    def lines(self) -> list[str]:
        """What the model takes, and what one layer of each kind saves."""
        name = self.model.calibration.name
        lines = [f"{self.source}: the model takes {self.milliseconds(()):,.0f} ms ({name})"]
        parts = self.model.estimate(self.teacher).breakdown
        host = sum(part["share"] for part in parts if part["operator"] == HOST)
        if host > MOST_OF_HOST:
            lines.append(f"  {host:.0%} of it is the host's, which no change saves")
        kinds = {kind_of(self.teacher, choice): choice.saved_ms for choice in self.choices}
        return lines + [f"  one {kind} saves {saved:,.1f} ms" for kind, saved in kinds.items()]


def load_times(config: ConvertConfig, teacher: Architecture) -> RequestTimes:
    """By the table.

    Raises:
        SettingError: a program does not load the model, or no changed one.
        TableError, WorkloadError: the table cannot answer; SPACE has the operators that it needs.
    """
    workload = load_workload(config.workload)
    model = model_of(config.table, workload, calibration=config.calibration)
    timed = {model.table.default_mode} & PROGRAMS.keys()  # the program of a table's rows
    wanted = timed.union(config.runtime)
    choices = [
        choice
        for choice in possible(
            teacher, config.windows or (), config.widths, config.keep, config.replacements
        )
        if _loads(converted(teacher, (choice,)), wanted)
    ]
    if not choices:
        what = "no change of the model" if _loads(teacher, wanted) else "not even the model"
        config.wrong("runtime", f"{what} loads in {names_text(sorted(wanted))} without flashnas")
    space = config.out / SPACE
    write_atomic(space, _space_text(teacher, choices))
    times = RequestTimes(teacher, f"{config.table}, {workload.name}", model)
    try:
        full_ms = times.milliseconds(())
        choices = [
            replace(choice, saved_ms=full_ms - times.milliseconds((choice,))) for choice in choices
        ]
    except MissingRowsError as error:
        runtime = "".join(f" --runtime {program}" for program in timed)
        raise MissingRowsError(
            f"{str(error).partition('; measure it')[0]}; measure the operators of this model:"
            f" flashnas profile{runtime} --space {space} --workload {workload.name}"
        ) from None
    least_ms = LEAST_SAVED * full_ms
    return replace(times, choices=[choice for choice in choices if choice.saved_ms > least_ms])


def _loads(network: Architecture, programs: set[str]) -> bool:
    """Whether all programs load a network; a GGUF file may hold it with output gates."""
    gguf = {"llama.cpp"} & {*loading(with_output_gates(network))}
    return programs <= {*loading(network), *gguf}


def _space_text(teacher: Architecture, choices: Sequence[Choice]) -> str:
    """A search space of the operators of a model and of its changes."""
    specs = (*teacher.operators, *(choice.spec for choice in choices if choice.spec))
    layers = "".join(f"  - {str(spec)!r}\n" for spec in dict.fromkeys(specs))
    return (
        f"template: layerwise\nwidths: [{teacher.hidden}]\n"
        f"model: {{vocab: {teacher.vocab}, tied: {str(teacher.tied).lower()}}}\n"
        f"layers:\n  depth: [1, {len(teacher.operators)}]\n  choices:\n{layers}"
    )


def savings(config: ConvertConfig, times: RequestTimes) -> list[float]:
    """The milliseconds that each budget asks to save; BudgetError where the choices cannot."""
    choices = times.choices
    full_ms = times.milliseconds(())
    by = times.model.calibration.name
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
