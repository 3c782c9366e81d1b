"""Estimate: what a LatencyModel predicts of an architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flashnas.base.errors import WorkloadError
from flashnas.base.text import one_of
from flashnas.latency.calibration import INTERVAL, OWN
from flashnas.latency.metrics import METRICS, Predicted


@dataclass(frozen=True, kw_only=True)
class Estimate(Predicted):
    """The predicted metrics of one architecture, as defined in metrics.py, with their parts.

    Args:
        batch: of the workload, or the largest that fits.
        breakdown: one entry for each kernel of each operator and phase: operator (short name,
            `embedding` or `head`), index (position among the operators, else -1), phase, kernel
            (kind of row), label, source, ms (over the whole request) and share of latency_ms.
        sources: share of latency_ms by source.
        bounds: [lower, upper] of each metric that is a time or a rate: the interval that holds it
            with the probability `interval`.
        calibration: engine, paper, or own: of a table without whole models, by its rows alone.
        weights: type of the weights; fp8: of the operators' matrices.
    """

    notation: str
    hash: str
    batch: int
    workload: str
    table: str
    breakdown: tuple[dict[str, Any], ...]
    sources: dict[str, float]
    bounds: dict[str, list[float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    weights: str = "bfloat16"
    calibration: str = OWN
    interval: float = INTERVAL

    def metric(self, name: str) -> float:
        """One metric by name; raises WorkloadError for one that does not exist."""
        if name not in METRICS:
            raise WorkloadError(one_of("metric", name, METRICS))
        return float(getattr(self, name))

    def operators_ms(self) -> dict[str, dict[str, float]]:
        """Milliseconds of the request by kind of operator and source."""
        times: dict[str, dict[str, float]] = {}
        for part in self.breakdown:
            by_source = times.setdefault(part["operator"], {})
            by_source[part["source"]] = by_source.get(part["source"], 0.0) + part["ms"]
        return times

    def to_dict(self) -> dict[str, Any]:
        return {
            "notation": self.notation,
            "hash": self.hash,
            **vars(self),
            "breakdown": list(self.breakdown),
            "notes": list(self.notes),
        }
