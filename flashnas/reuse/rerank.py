"""The front of finished runs for another budget, device, workload or other objectives, with nothing
trained again: the networks keep their losses, and their metrics are estimated anew."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError, TableError
from flashnas.latency.fitting import excess, metric_of
from flashnas.latency.metrics import METRICS, PREDICTED
from flashnas.reuse.earlier_runs import Trained
from flashnas.reuse.new_question import NewQuestion
from flashnas.runs.front import (
    ForeignNetwork,
    as_recorded_network,
    origin_of,
    programs_of,
)
from flashnas.runs.layout import FORMAT, table_facts
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import QUALITY, non_dominated, point
from flashnas.search.trial import EXPECTED_FIGURES, METRICS_ON_FRONT, Trial

Timed = tuple[Trained, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """The answer to another question.

    run: the trained networks under it, as a run: those within the budgets have a loss in its
    trials, and its front is theirs. outside: number of the others. unanswered: reason -> networks
    that the table cannot answer.
    """

    run: RecordedRun
    trained: int
    outside: int
    unanswered: dict[str, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        run = self.run
        return {
            "runs": run.config["runs"],
            "table": (run.config["table"] or {}).get("name"),
            "calibration": (run.config["table"] or {}).get("calibration"),
            "workload": run.config["workload"],
            "budgets": run.config["budgets"],
            "objectives": list(run.objectives),
            "confidence": run.confidence,
            "front": [
                {
                    "notation": trial.notation,
                    "hash": trial.hash,
                    **trial.figures,
                    "origin": origin_of(trial),
                }
                for trial in run.front
            ],
            "networks": {
                "trained": self.trained,
                "outside": self.outside,
                "unanswered": self.unanswered,
            },
            "notes": list(self.notes),
        }


def rerank(question: NewQuestion) -> Reranked:
    """The front of the runs for another question.

    Raises:
        ConfigError: the runs did not train an objective.
        BudgetError: no network of the runs meets the budgets.
        TableError: the table answers for no network.
    """
    earlier = question.earlier
    for name, run in itertools.product(question.objectives, earlier.runs):
        trained_for = name in QUALITY and name != "loss"
        if trained_for and run.trials.get(name, pd.Series()).isna().all():
            raise ConfigError(f"pareto.objectives names {name!r}, which {run.path} did not train")
    limits = question.budgets
    within: list[Timed] = []
    outside: list[Timed] = []
    unanswered: Counter[str] = Counter()
    for trained in earlier.networks:
        try:
            metrics = question.costs.metrics(_network_of(trained))
        except MissingRowsError as error:
            unanswered[str(error)] += 1
            continue
        fits = all(budget.holds(metric_of(budget.metric, metrics)) for budget in limits)
        (within if fits else outside).append((trained, metrics))
    if not within and not outside:
        raise TableError(
            f"{next(iter(unanswered))} (and so for all {len(earlier.by_hash)} networks of the runs)"
        )
    if not within:
        closest, figures = min(
            outside,
            key=lambda timed: max(
                excess(metric_of(budget.metric, timed[1]), budget) for budget in limits
            ),
        )
        listed = ", ".join(
            f"{budget.metric} {figures[budget.metric]:,.4g} (budget {budget.limit:,.6g})"
            for budget in limits
        )
        raise BudgetError(
            f"no network of the runs meets the budget; the nearest has {listed}:"
            f" {closest.row.notation}"
        )
    return Reranked(
        run=_run(question, within, outside),
        trained=len(earlier.by_hash),
        outside=len(outside),
        unanswered=dict(unanswered),
        notes=tuple(question.notes),
    )


# -- the answer as a run ---------------------------------------------------------------------------


def _network_of(trained: Trained) -> Any:
    """The network, or in place of it what its run recorded."""
    if trained.network is not None:
        return trained.network
    return ForeignNetwork("", trained.row.notation, trained.row.hash, {})


def _run(question: NewQuestion, within: Sequence[Timed], outside: Sequence[Timed]) -> RecordedRun:
    """A run with trials and a front of its own. Networks outside the budgets have no loss there."""
    names, several = question.objectives, len(question.earlier.runs) > 1
    points = {
        n: values
        for n, (trained, metrics) in enumerate(within)
        if (values := point(names, {**trained.row._asdict(), **metrics})) is not None
    }
    mask = non_dominated(np.array(list(points.values())).reshape(-1, len(names)))
    best = sorted(
        itertools.compress(points, mask), key=lambda n: within[n][1].get("latency_ms", 0.0)
    )
    outside_budgets = {"loss": np.nan, "state": "infeasible", "reason": "outside the budgets"}
    trials = pd.DataFrame(
        [
            {
                **trained.row._asdict(),
                **dict.fromkeys(PREDICTED, np.nan),
                **metrics,
                "number": number,
                "state": "complete",
                "label": f"{trained.row.label} of {trained.run.name}"
                if several and trained.row.label
                else trained.row.label,
                **(outside_budgets if number >= len(within) else {}),
            }
            for number, (trained, metrics) in enumerate([*within, *outside])
        ]
    )
    front = tuple(_finalist(question, *within[n], number) for number, n in enumerate(best, 1))
    return RecordedRun(question.earlier.runs[0].path, _config(question), trials, front)


def _finalist(
    question: NewQuestion, trained: Trained, metrics: Mapping[str, float], front_number: int
) -> Trial:
    """A trial of the new front, with the number that it has in its run."""
    row, network = trained.row, _network_of(trained)
    recorded = {**row._asdict(), **dict.fromkeys(METRICS), **metrics}
    figures: dict[str, Any] = {
        name: float(recorded[name]) if pd.notna(recorded.get(name)) else None
        for name in (*METRICS_ON_FRONT, *EXPECTED_FIGURES)
    }
    if question.certificate and question.model is not None:
        estimate = question.model.estimate(network)
        figures["bound_ms"] = question.certificate.bound(estimate, "latency_ms")
    return Trial(
        number=int(row.number),
        origin=row.origin,
        label=row.label,
        run=trained.run.name if len(question.earlier.runs) > 1 else "",
        state="complete",
        notation=row.notation,
        hash=row.hash,
        architecture=as_recorded_network(network),
        scores=row.scores,
        front_number=front_number,
        runs_in=programs_of(network),
        **figures,
        **question.costs.details(network),
    )


def _config(question: NewQuestion) -> dict[str, Any]:
    """The head of run.yaml, without a question: such a folder is not continued."""
    first = question.earlier.runs[0]
    same = {
        key: first.entry(key) for key in ("flashnas", "space", "table", "workload", "seed", "proxy")
    }
    if question.model is not None:
        same |= {
            "workload": question.model.workload.to_dict(),
            "table": table_facts(question.model),
        }
    return {
        "format": FORMAT,
        **same,
        "runs": [str(run.path) for run in question.earlier.runs],
        "budgets": dict(question.limits),
        "confidence": question.confidence,
        "objectives": list(question.objectives),
    }
