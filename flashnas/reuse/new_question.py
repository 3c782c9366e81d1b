"""Another question for finished runs: how their networks are timed, and what limits they have to
keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError, TableError
from flashnas.latency.fitting import Costs, OwnCosts, RecordedCosts, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import Certificate
from flashnas.latency.workload import ENGINE, Workload, load_workload
from flashnas.reuse.earlier_runs import EarlierRuns, earlier_runs
from flashnas.runs.layout import device_facts, table_hash
from flashnas.runs.run import RecordedRun


@dataclass(frozen=True, kw_only=True)
class NewQuestion:
    """What is the same for all networks of the runs. objectives: trained ones first. model: a
    latency table's, where one answers. limits: metric -> limit, as the user gave them. confidence,
    certificate: with which the limits are kept."""

    earlier: EarlierRuns
    objectives: tuple[str, ...]
    costs: Costs
    model: LatencyModel | None
    limits: Mapping[str, float]
    confidence: float | None
    certificate: Certificate | None
    notes: list[str]

    @property
    def budgets(self) -> list[Budget]:
        """The limits, as they have to be kept by the estimates."""
        bounds = [Budget(name, limit) for name, limit in self.limits.items()]
        return self.certificate.tightened(bounds) if self.certificate else bounds


def new_question(
    sources: Sequence[Any],
    space: Any,
    *,
    objectives: Sequence[str] | None,
    table: Any,
    workload: str | Workload | None,
    calibration: str | None,
    mode: str | None,
    budgets: Mapping[str, float] | None,
    confidence: float | None,
) -> NewQuestion:
    """Read the runs, and ask something else. What is None is as in the first run; budgets only for
    the same table and workload, since a limit in milliseconds means nothing on another device.

    Raises:
        RunError: a folder is not a run, or the losses of the runs do not compare.
        ConfigError: the networks of the runs cannot be timed by the table.
        TableError, WorkloadError: the table or workload cannot be read.
    """
    earlier = earlier_runs(sources, space)
    first = earlier.runs[0]
    if space is not None and all(run.entry("space", "hash") != space.hash for run in earlier.runs):
        raise ConfigError(
            f"pareto.space: {space.name!r} is not the space of {first.path} as it was searched,"
            f" {first.entry('space', 'name')!r}"
        )
    same = table is None and workload is None
    mode = mode or (first.entry("question", "mode") if table is None else None)
    if budgets is None:
        budgets = (
            {str(name): float(limit) for name, limit in (first.entry("budgets") or {}).items()}
            if same
            else {}
        )
    if confidence is None and same:
        confidence = first.confidence
    notes = [
        f"{run.path}: not finished; {len(run.trained)} networks are trained so far"
        for run in earlier.runs
        if not run.entry("finished")
    ]
    model, costs = None, _without_table(earlier, table, workload)
    if costs is None:
        calibration = calibration or first.entry("question", "calibration") or ENGINE
        model = _model(earlier, table, workload, (calibration, mode), notes)
        costs = TableCosts(model)
    return NewQuestion(
        earlier=earlier,
        objectives=tuple(objectives or first.objectives),
        costs=costs,
        model=model,
        limits=budgets,
        confidence=confidence,
        certificate=_certificate(first, model, confidence),
        notes=notes,
    )


def _certificate(
    run: RecordedRun, model: LatencyModel | None, confidence: float | None
) -> Certificate | None:
    """By which limits on times are kept, if a confidence is asked for."""
    if confidence is None:
        return None
    if model is None:
        raise ConfigError("pareto.confidence needs a latency table")
    searched = run.config["space"]
    return Certificate.of(model, searched["name"], searched["hash"], confidence)


def _without_table(earlier: EarlierRuns, table: Any, workload: Any) -> Costs | None:
    """Metrics by a function of the user's, or as the runs recorded them; None where a table
    answers.
    """
    first = earlier.runs[0]
    if callable(table) and not isinstance(table, LatencyTable):
        _check_networks(earlier, "a function")
        return OwnCosts(table)
    if table is not None or first.entry("question", "table_hash") is not None:
        return None
    if workload is not None:
        raise ConfigError(
            f"pareto.workload needs a latency table, and {first.path} was searched without one;"
            " give a table, too"
        )
    return RecordedCosts({trained.row.hash: trained.metrics() for trained in earlier.networks})


def _model(
    earlier: EarlierRuns,
    table: str | LatencyTable | None,
    workload: str | Workload | None,
    rows: tuple[str, str | None],  # calibration and mode
    notes: list[str],
) -> LatencyModel:
    _check_networks(earlier, "a latency table")
    first = earlier.runs[0]
    source = first.entry("question", "table") if table is None else table
    try:
        loaded = source if isinstance(source, LatencyTable) else LatencyTable.load(source)
    except TableError as error:
        if table is not None:
            raise
        raise TableError(
            f"{error} (the table of {first.path}; give another one with --table)"
        ) from None
    device = device_facts(loaded)
    if table is None and (table_hash(loaded), device) != (
        first.entry("question", "table_hash"),
        first.entry("question", "device") or device,
    ):
        notes.append(
            f"table {source}: has changed since {first.path} was searched; the estimates are of the"
            " table as it is now"
        )
    if workload is None:
        recorded = first.entry("question", "workload")
        if not isinstance(recorded, dict):
            raise ConfigError(f"pareto.workload is required: {first.path} was searched without one")
        workload = Workload(**recorded)
    calibration, mode = rows
    return model_of(source, load_workload(workload), calibration=calibration, mode=mode)


def _check_networks(earlier: EarlierRuns, what: str) -> None:
    """Raise RunError where a network cannot be built again, and ConfigError where a table cannot
    time it.
    """
    for trained in earlier.networks:
        run = trained.run
        if trained.network is None:
            raise RunError(
                f"{run.path}: trial {trained.row.number}: its network cannot be built again"
                f" without the space {run.entry('space', 'name')!r} as it was, and {what} needs"
                " it; fn.pareto takes the space"
            )
        if what == "a latency table" and not isinstance(trained.network, Architecture):
            raise ConfigError(
                f"pareto.table: the networks of {run.path} are not of flashnas, and a latency"
                " table cannot answer for them; give a function network -> latency_ms"
            )
