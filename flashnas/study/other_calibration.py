"""Whether the other calibration of a latency table would recommend something else."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.latency.calibration import CALIBRATIONS
from flashnas.latency.costs import TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.prediction import model_of
from flashnas.runs.answer import OtherCalibration
from flashnas.study.explore import Explored
from flashnas.study.problem import Problem

REFITTED = 1000  # of the explored networks


def other_calibration(
    problem: Problem, explored: Explored, network: Architecture
) -> OtherCalibration:
    """What the best networks that were explored give under the other calibration: each at the largest
    width that meets the budgets there. Empty for a table that has one calibration."""
    model, scorer, floor = problem.model, problem.scorer, problem.config.recall_floor
    if model is None or scorer is None or model.calibration.name not in CALIBRATIONS:
        return {}
    (name,) = (name for name in CALIBRATIONS if name != model.calibration.name)
    costs = TableCosts(
        model_of(model.table, model.workload, calibration=name, mode=problem.config.mode)
    )
    if costs.model.calibration.name != name:
        return {}
    fitter = problem.fitter
    there: Fitter[Any] = Fitter(problem.space, costs, fitter.budgets, fitter.allowed, fitter.holds)
    fitted = {}
    for index in np.argsort(explored.value, kind="stable")[:REFITTED]:
        candidate, latency_ms = there.latency_of(explored.genotypes[index])
        if candidate is not None and latency_ms is not None:
            fitted[candidate] = latency_ms
    networks = list(fitted)
    values, recalls = scorer.values(networks), scorer.recalls(networks)
    if len(recalls) and (recalls >= floor).any():
        values = np.where(recalls >= floor, values, np.inf)
    best = networks[int(np.argmin(values))] if networks else None
    return {
        "calibration": name,
        "notation": "" if best is None else best.notation,
        "latency_ms": 0.0 if best is None else fitted[best],
        "chosen_ms": costs.latencies([network])[0] or 0.0,
    }
