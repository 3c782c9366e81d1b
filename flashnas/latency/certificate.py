"""How far a prediction may be exceeded: one-sided conformal bounds from the residuals of `flashnas
validate`.

The bound of a metric is its prediction times exp(q): q is the ceil((n + 1) x confidence)-th
smallest of the n stored log(measured / predicted). If a new architecture is drawn like the
validated ones, its measured metric lies within the bound with at least that probability (Vovk et
al., Algorithmic Learning in a Random World, 2005). The finalists of a search are extremes, and not
drawn like that: where the device is at hand, they are measured as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import TableError
from flashnas.latency.calibration import VALIDATIONS, conformal_margin, min_count
from flashnas.latency.metrics import LARGER_IS_BETTER, Budget, Estimate
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload

TIMES = ("ttft_ms", "tpot_ms", "latency_ms")  # metrics that are validated


@dataclass(frozen=True)
class Certificate:
    """One-sided bounds of predictions. margins: metric -> q, at least 0, of metrics that are
    timed.
    """

    confidence: float
    margins: Mapping[str, float]

    @classmethod
    def of(
        cls,
        table: LatencyTable,
        workload: Workload,
        *,
        space_name: str,
        space_hash: str,
        confidence: float,
    ) -> Certificate:
        """From the table's validation of this workload and space, in the mode of its rows; raises
        TableError with the command to run, if there is none, it is stale, or it has too few
        architectures."""
        where = f"{table.path}: table {table.name}"
        command = f"flashnas validate --table {table.path} --space {space_name} --workload {workload.name}"
        entry = find(table, workload, space_hash)
        if entry is None:
            raise TableError(
                f"{where} has no validation of space {space_name!r} and workload"
                f" {workload.name!r}, which the confidence rests on: {command}"
            )
        try:
            ratios = {
                metric: list(map(float, kept["log_ratios"]))
                for metric, kept in entry["metrics"].items()
            }
            stale, date = entry["basis"] != table.basis, entry["date"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise TableError(
                f"{where}: the entry in {VALIDATIONS} of meta.yaml is damaged; validate again:"
                f" {command}"
            ) from None
        if stale:
            raise TableError(
                f"{where} was calibrated or measured anew since it was validated on {date};"
                f" validate it again: {command}"
            )
        needed = min_count(confidence)
        count = min((len(values) for values in ratios.values()), default=0)
        if count < needed:
            raise TableError(
                f"{where}: a confidence of {confidence:g} needs {needed} architectures that were"
                f" validated (and not calibrated on); there are {count}: {command} -n {needed}"
            )
        return cls(
            confidence,
            {
                metric: max(0.0, conformal_margin(values, confidence))
                for metric, values in ratios.items()
            },
        )

    def bound(self, estimate: Estimate, metric: str) -> float:
        """The value that the metric does not exceed (throughput: at least reaches) with the
        confidence.
        """
        return estimate.metric(metric) * self._factor(metric)

    def text(self) -> str:
        """How the budgets are tightened, for the end of a message."""
        parts = ", ".join(
            f"{metric} x {math.exp(margin):.3f}" for metric, margin in self.margins.items()
        )
        return f"; confidence {self.confidence:g} divides the budgets: {parts}"

    def _factor(self, metric: str) -> float:
        if metric in LARGER_IS_BETTER:
            return math.exp(-self.margins.get("tpot_ms", self.margins.get("ttft_ms", 0.0)))
        return math.exp(self.margins.get(metric, 0.0))

    def tightened(self, budgets: Iterable[Budget]) -> list[Budget]:
        """Budgets on predictions that hold exactly where the bounds are within the given ones."""
        return [
            Budget(budget.metric, budget.limit / self._factor(budget.metric)) for budget in budgets
        ]


def find(table: LatencyTable, workload: Workload, space_hash: str) -> dict[str, Any] | None:
    """The validation of the table's mode for this workload and space, or None."""
    return next(
        (
            dict(entry)
            for entry in table.meta.get(VALIDATIONS, ())
            if key(table, workload, space_hash).items() <= entry.items()
        ),
        None,
    )


def key(table: LatencyTable, workload: Workload, space_hash: str) -> dict[str, Any]:
    """What identifies a validation; the name of a workload does not matter."""
    requests = {name: value for name, value in workload.to_dict().items() if name != "name"}
    return {"space_hash": space_hash, "workload": requests, "mode": table.default_mode}
