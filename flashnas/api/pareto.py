"""The front of finished runs for another question, from what they trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.api.calling import calibration_option, check_out, takes
from flashnas.api.run import Run
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.latency.metrics import METRICS
from flashnas.latency.workload import WORKLOAD_HELP
from flashnas.search.objectives import check_objectives

if TYPE_CHECKING:
    from flashnas.reuse.rerank import Reranked
    from flashnas.search.trial import Trial
    from flashnas.space import SearchSpace

OBJECTS = {"table": "LatencyTable | Callable", "workload": "Workload"}


@dataclass(frozen=True, kw_only=True)
class ParetoOptions(Settings, where="pareto"):
    runs: tuple[str, ...] = option(
        REQUIRED,
        "run folders, finished or not; several are merged",
        metavar="RUN",
        positional=True,
        objects=("flashnas.api.run:Run", "flashnas.runs.run:RecordedRun"),
    )
    table: str | None = option(
        None, "shipped latency table or folder of another device", shown="that of the first run"
    )
    calibration: str | None = calibration_option(None, shown="that of the first run")
    workload: str | None = option(None, WORKLOAD_HELP, shown="that of the first run")
    budget_ms: float | None = option(
        None, "largest latency_ms of the workload", metavar="MS", above=0
    )
    budgets: dict[str, float] | None = option(
        None,
        "bound another metric, such as memory_gb=8; may be repeated",
        flag="--budget",
        metavar="METRIC=LIMIT",
        keys=tuple(METRICS),
        above=0,
        shown="those of the first run; none for another table or workload",
    )
    objectives: tuple[str, ...] | None = option(
        None,
        "what the front is drawn for, 2 to 4 names",
        metavar="A,B,..",
        separator=",",
        shown="those of the first run",
    )
    confidence: float | None = option(
        None,
        "keep the budgets with this probability, by the table's validation",
        metavar="P",
        above=0,
        below=1,
    )
    mode: str | None = option(
        None, "eager or cuda_graph, of a table with several", shown="the table's"
    )
    out: Path | None = option(
        None,
        "folder for the front, its picture and a report",
        metavar="DIR",
        shown="nothing is written",
        yaml=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs:
            self.wrong("runs", "must name a run folder; got none")
        if self.budget_ms is not None:
            budgets = self.budgets or {}
            if "latency_ms" in budgets:
                self.wrong("budget_ms", "and a budget on latency_ms are the same; give one of them")
            object.__setattr__(self, "budgets", {"latency_ms": self.budget_ms, **budgets})
        if self.objectives is not None:
            refuse = functools.partial(self.wrong, "objectives")
            object.__setattr__(self, "objectives", check_objectives(self.objectives, refuse))


@dataclass(frozen=True, repr=False)
class Pareto:
    """The front of runs for another question.

    run: the trained networks under the new question as a Run: `run.trials`, `run.plot_front()`.
    path: the folder that was written, or None. answer: all parts.
    """

    run: Run
    answer: Reranked = field(repr=False)
    path: Path | None = None

    @property
    def front(self) -> tuple[Trial, ...]:
        """Fastest first, each with `architecture`, `notation` and `figures`."""
        return self.run.front

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader has to know, one line each."""
        return self.answer.notes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.answer.to_dict(), "out": None if self.path is None else str(self.path)}

    def __str__(self) -> str:
        from flashnas.report.results import pareto_text

        text = pareto_text(self.answer)
        if self.path is None:
            return text
        return f"{text}\nfront   {self.path / 'pareto'}/\nreport  {self.path / 'report.html'}"

    def __repr__(self) -> str:
        return f"Pareto({len(self.front)} on the front)"


@takes(ParetoOptions, objects=OBJECTS)
def pareto(
    options: ParetoOptions, *, objects: Mapping[str, Any], space: SearchSpace[Any] | None = None
) -> Pareto:
    """The front of one or several runs for another budget, device, workload or objectives. Nothing
    is trained.

    The networks keep their losses, and their metrics are estimated anew. Runs are merged if their
    losses compare: same recipe, text, vocabulary and seed. A run may still be searching.

    Further:
        space (SearchSpace): of the runs, where it is not a shipped one or a file.

    Returns:
        A Pareto: `front` and `run`. `print` shows it.

    Raises:
        RunError: a folder is not a run, or the losses of the runs do not compare.
        ConfigError: for an option that does not suit the runs.
        BudgetError: no network of the runs meets the budgets.
        TableError: the table cannot be read, or answers for none of the networks
            (MissingRowsError).

    Example:
        >>> import flashnas as fn
        >>> found = fn.pareto("my_run", budgets={"latency_ms": 12_000})
        >>> all(entry.latency_ms <= 12_000 for entry in found.front)
        True
    """
    if options.out is not None:
        check_out(options, empty=True)

    from flashnas.reuse.new_question import new_question
    from flashnas.reuse.rerank import rerank

    question = new_question(
        options.runs,
        space,
        table=objects.get("table", options.table),
        workload=objects.get("workload", options.workload),
        calibration=options.calibration,
        mode=options.mode,
        budgets=options.budgets,
        objectives=options.objectives,
        confidence=options.confidence,
    )
    answer = rerank(question)
    run = answer.run
    if options.out is None:
        return Pareto(Run(run.path, run.config, run.trials, run.front), answer)

    from flashnas.report.page import write_report

    run.write(options.out)
    write_report(options.out)
    return Pareto(Run.load(options.out), answer, options.out)
