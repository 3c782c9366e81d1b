"""A search that measures while it searches: the table's correction is fitted anew to the networks that were
timed.

A correction that predicts the timed networks, each left out in turn, better than the table does takes the
place of the table's own; bounds and certificate then rest on the same residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.latency import metrics as definitions
from flashnas.latency.certificate import TIMES, Certificate, conformal_margin, min_count
from flashnas.latency.corrections import fit_leaving_out
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.validation import PHASES, terms, with_corrections
from flashnas.runs.trial import Trial
from flashnas.study.question import Question

MIN_TIMED = 6            # timed networks below which nothing is corrected
BOUNDS = 0.1, 0.9        # quantiles of the residuals
COUNTED = ("complete", "stopped")


@dataclass(frozen=True, kw_only=True)
class Version:
    """What the predictions rest on from so many trials on. networks: that were timed. taken: the correction
    is in use; else the table's own predicts better. table_error, left_out_error: mean relative error of
    latency_ms over the timed networks, by the table, and by a correction that was fitted to the others.
    constants: of the correction, by phase. margins: of the certificate. bounds: natural logarithms by which
    lower_ms and upper_ms differ from latency_ms."""

    trials: int
    networks: int
    taken: bool
    table_error: float
    left_out_error: float
    constants: Mapping[str, Mapping[str, float]]
    margins: Mapping[str, float] | None
    bounds: tuple[float, float]

    def __str__(self) -> str:
        errors = f"{self.left_out_error:.1%} against {self.table_error:.1%} by the table"
        if not self.taken:
            return f"{self.networks} networks timed: the table predicts them best (a correction: {errors})"
        return (f"{self.networks} networks timed: latencies corrected; mean error of networks left out"
                f" {errors}")


class SelfCorrection:
    """Corrects the costs of one search, which a latency table gives, and its fitter."""

    def __init__(self, question: Question) -> None:
        self.costs: Any = question.costs
        self.fitter, self.every = question.fitter, question.config.measure_every
        self.budgets = question.config.bounds
        self.certificate = self._first = question.certificate
        self.versions: list[Version] = []
        self._base: Any = question.model
        self._fitted_to = 0

    def due(self, trials: Sequence[Trial]) -> list[str]:
        """Hashes of the networks to time: the first trained one and every k-th after it."""
        return [trial.hash for trial in trials if trial.state in COUNTED][::self.every]

    def update(self, timed: Sequence[tuple[Any, Mapping[str, float]]], trials: int) -> bool:
        """Fit the correction to all (network, metrics) that were timed so far; True if the costs have
        changed."""
        if len(timed) < MIN_TIMED or len(timed) == self._fitted_to:
            return False
        self._fitted_to = len(timed)
        base, workload = self._base, self._base.workload
        bare = LatencyModel(base.table, workload, calibrated=False, mode=base.table.default_mode)
        fits = {phase: fit_leaving_out([terms(bare, network, phase, times) for network, times in timed])
                for phase, metric in PHASES.items() if timed[0][1][metric] > 0}
        left_out = {PHASES[phase]: np.array(predicted) / 1000 for phase, (_, predicted) in fits.items()}
        zero = np.zeros(len(timed))
        left_out["latency_ms"] = np.array([
            definitions.latency_ms(float(ttft_ms), float(tpot_ms), workload.generated_tokens)
            for ttft_ms, tpot_ms in zip(left_out.get("ttft_ms", zero), left_out.get("tpot_ms", zero),
                                        strict=True)])
        measured = {metric: np.array([times[metric] for _, times in timed]) for metric in left_out}
        ratios = {metric: np.log(measured[metric] / predicted) for metric, predicted in left_out.items()}
        latency_ms = measured["latency_ms"]
        by_table = base.latencies([network for network, _ in timed])
        table_error = float(np.mean(np.abs(by_table / latency_ms - 1)))
        left_out_error = float(np.mean(np.abs(left_out["latency_ms"] / latency_ms - 1)))
        taken = left_out_error < table_error
        before = (self.costs.model, self.certificate, self.costs.bounds)
        model, certificate, bounds = base, self._first, None
        if taken:
            _, model = with_corrections(base.table, base,
                                        {phase: correction for phase, (correction, _) in fits.items()},
                                        [network for network, _ in timed])
            low, high = np.quantile(ratios["latency_ms"], BOUNDS)
            bounds = (min(float(low), 0.0), max(float(high), 0.0))
            if self._first is not None and len(timed) >= min_count(self._first.confidence):
                certificate = Certificate(self._first.confidence, {
                    metric: max(0.0, conformal_margin(list(ratios[metric]), self._first.confidence))
                    for metric in TIMES if metric in ratios})
        self.certificate = certificate
        self.costs.use(model, bounds)
        self.fitter.use(certificate.tightened(self.budgets) if certificate else self.budgets)
        self.versions.append(Version(
            trials=trials, networks=len(timed), taken=taken, table_error=round(table_error, 5),
            left_out_error=round(left_out_error, 5),
            constants={phase: correction.to_dict() for phase, (correction, _) in fits.items()},
            margins=None if certificate is None else certificate.margins,
            bounds=bounds or (0.0, 0.0)))
        return before != (model, certificate, bounds)
