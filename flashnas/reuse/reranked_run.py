"""The trained networks of runs under another question, as a run with trials and a front of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashnas.latency.metrics import METRICS, PREDICTED
from flashnas.reuse.known import Trained
from flashnas.reuse.new_question import NewQuestion
from flashnas.runs.front import (
    EXPECTED_FIGURES,
    FRONT_FIGURES,
    ForeignNetwork,
    FrontEntry,
    programs_of,
    recorded,
)
from flashnas.runs.identity import table_facts
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import point
from flashnas.search.pareto import non_dominated

Timed = tuple[Trained, Mapping[str, float]]


def network_of(trained: Trained) -> Any:
    """The network, or in place of it what its run recorded."""
    row = trained.row
    return ForeignNetwork("", row.notation, row.hash, {}) if trained.network is None else trained.network


def reranked_run(question: NewQuestion, within: Sequence[Timed],
                 outside: Sequence[Timed]) -> tuple[RecordedRun, np.ndarray]:
    """The run, and the points [N, M] of its front. Networks outside the budgets have no loss there."""
    names, several = question.objectives, len(question.known.runs) > 1
    scored = [(place, values) for place, (trained, metrics) in enumerate(within) if (values := point(
        names, {**trained.row._asdict(), **metrics}, trained.row.scores)) is not None]
    points = np.array([values for _, values in scored]).reshape(-1, len(names))
    mask = non_dominated(points)
    best = sorted((place for (place, _), keep in zip(scored, mask, strict=True) if keep),
                  key=lambda place: within[place][1].get("latency_ms", 0.0))
    trials = pd.DataFrame([{
        **trained.row._asdict(), **dict.fromkeys(PREDICTED, np.nan), **metrics, "number": number,
        "state": "complete",
        "label": f"{trained.row.label} of {trained.run.name}" if several and trained.row.label else
        trained.row.label,
        **({} if number < len(within) else {"loss": np.nan, "state": "infeasible",
                                            "reason": "outside the budgets"})}
        for number, (trained, metrics) in enumerate([*within, *outside])])
    front = tuple(_entry(question, *within[place], number, place) for number, place in enumerate(best, 1))
    return RecordedRun(question.known.runs[0].path, _config(question), trials, front), points[mask]


def _entry(question: NewQuestion, trained: Trained, metrics: Mapping[str, float], number: int,
           place: int) -> FrontEntry:
    row, network = trained.row, network_of(trained)
    values = {**row._asdict(), **dict.fromkeys(METRICS), **metrics}
    figures = {name: None if values[name] is None or values[name] != values[name] else float(values[name])
               for name in FRONT_FIGURES}
    figures |= {name: float(values[name]) for name in EXPECTED_FIGURES if pd.notna(values.get(name))}
    if trained.seeds > 1:
        figures.update(seeds=trained.seeds, loss_se=float(values["loss_se"]))
    if question.certificate and question.model is not None:
        figures["bound_ms"] = question.certificate.bound(question.model.estimate(network), "latency_ms")
    origin = {"number": place, "label": row.label or "search", "trial": int(row.number),
              **({"run": trained.run.name} if len(question.known.runs) > 1 else {})}
    return FrontEntry(notation=row.notation, hash=row.hash,
                      architecture=network if isinstance(network, ForeignNetwork) else recorded(network),
                      figures={**figures, **row.scores}, origin=origin, number=number,
                      runs_in=programs_of(network),
                      path=Path(f"{number:02d}.yaml"), **question.costs.details(network))


def _config(question: NewQuestion) -> dict[str, Any]:
    """The head of run.yaml, without a question: such a folder is not continued."""
    first = question.known.runs[0]
    same = {key: first.entry(key) for key in ("flashnas", "space", "table", "workload", "seed", "proxy")}
    if question.model is not None:
        same |= {"workload": question.model.workload.to_dict(), "table": table_facts(question.model)}
    return {**same, "runs": [str(run.path) for run in question.known.runs], "budgets": dict(question.limits),
            "confidence": question.confidence, "objectives": list(question.objectives)}
