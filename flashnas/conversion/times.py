"""Milliseconds of changed models by a latency table, and what programs load of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, MissingRowsError, RunError
from flashnas.base.system import disk_errors, write_atomic
from flashnas.base.text import names_text
from flashnas.conversion.choices import (
    LEAST_SAVED,
    NONE,
    Choice,
    Layout,
    budget_of,
    converted,
    kind_of,
)
from flashnas.conversion.config import ConvertConfig
from flashnas.families.family import PROGRAMS
from flashnas.families.gguf.families import with_output_gates
from flashnas.families.programs import loading
from flashnas.latency.metrics import HOST
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.workload import CALIBRATIONS, load_workload

SPACE = "space.yaml"  # of the operators of a conversion, for `flashnas profile`
MOST_OF_HOST = 0.5  # of a request, from which it is said


@dataclass(frozen=True, eq=False)
class RequestTimes:
    """What requests to changed models take.

    source: in words. models: name of a calibration -> its model of the table; the first one
    decides. choices: those that all the programs load which are asked for.
    """

    teacher: Architecture
    source: str
    models: dict[str, LatencyModel]
    choices: list[Choice]

    def milliseconds(self, layout: Layout) -> float:
        return self._by(next(iter(self.models)), layout)

    def _by(self, calibration: str, layout: Layout) -> float:
        return float(self.models[calibration].latencies([converted(self.teacher, layout)])[0])

    def lines(self, kept: Sequence[Choice]) -> list[str]:
        """What one layer of each kind saves, and which kinds are not offered."""
        full = {name: self._by(name, ()) for name in self.models}
        kinds = {kind_of(self.teacher, choice): choice for choice in self.choices}
        offers = {kind_of(self.teacher, choice) for choice in kept}
        takes = ", ".join(f"{value:,.0f} ms ({name})" for name, value in full.items())
        lines = [f"{self.source}: the model takes {takes}"]
        name, model = next(iter(self.models.items()))
        parts = model.estimate(self.teacher).breakdown
        host = sum(part["share"] for part in parts if part["operator"] == HOST)
        if host > MOST_OF_HOST:
            lines.append(f"  {host:.0%} of it is the host's ({name}), which no change saves")
        for kind, choice in kinds.items():
            saved = ", ".join(
                f"{full[name] - self._by(name, (choice,)):,.1f} ms ({name})" for name in full
            )
            unused = "" if kind in offers else "; saves next to nothing, so that it is not offered"
            lines.append(f"  one {kind} saves {saved}{unused}")
        return lines


def load_times(
    config: ConvertConfig, teacher: Architecture, choices: Sequence[Choice]
) -> RequestTimes:
    """By the table, under both calibrations where it has them.

    Raises:
        SettingError: a program does not load the model, or no changed one.
        TableError, WorkloadError: the table cannot answer; SPACE has the operators that it needs.
    """
    workload = load_workload(config.workload)
    names = (config.calibration, *(name for name in CALIBRATIONS if name != config.calibration))
    models = {name: model_of(config.table, workload, calibration=name) for name in names}
    decides = models[config.calibration]
    timed = {decides.table.default_mode} & PROGRAMS.keys()  # the program of a table's rows
    wanted = timed.union(config.runtime)
    loaded = [choice for choice in choices if _loads(converted(teacher, (choice,)), wanted)]
    if not loaded:
        what = "no change of the model" if _loads(teacher, wanted) else "not even the model"
        config.wrong("runtime", f"{what} loads in {names_text(sorted(wanted))} without flashnas")
    if decides.calibration == models[names[1]].calibration:  # a table of whole operators
        del models[names[1]]
    space = config.out / SPACE
    with disk_errors(f"{space}: cannot be written", RunError):
        write_atomic(space, _space_text(teacher, loaded))
    times = RequestTimes(teacher, f"{config.table}, {workload.name}", models, loaded)
    try:
        decides.latencies([teacher, *(converted(teacher, (choice,)) for choice in loaded)])
    except MissingRowsError as error:
        runtime = "".join(f" --runtime {program}" for program in timed)
        raise MissingRowsError(
            f"{str(error).partition('; measure it')[0]}; measure the operators of this model:"
            f" flashnas profile{runtime} --space {space} --workload {workload.name}"
        ) from None
    return times


def _loads(network: Architecture, programs: set[str]) -> bool:
    """Whether all programs load a network."""
    return programs <= {*loading(network), *loading(with_output_gates(network))}


def _space_text(teacher: Architecture, choices: Sequence[Choice]) -> str:
    """A search space of the operators of a model and of its changes."""
    specs = (*teacher.operators, *(choice.spec for choice in choices if choice.spec))
    layers = "".join(f"  - {str(spec)!r}\n" for spec in dict.fromkeys(specs))
    return (
        f"template: layerwise\nwidths: [{teacher.hidden}]\n"
        f"model: {{vocab: {teacher.vocab}, tied: {str(teacher.tied).lower()}}}\n"
        f"layers:\n  depth: [1, {len(teacher.operators)}]\n  choices:\n{layers}"
    )


def savings(config: ConvertConfig, times: RequestTimes, choices: Sequence[Choice]) -> list[float]:
    """The milliseconds that each budget asks to save; BudgetError where the choices cannot."""
    full_ms = times.milliseconds(())
    by = next(iter(times.models))
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
