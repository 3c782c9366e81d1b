"""The host's time of the programs whose speeds are published: a log-normal of all programs, of which
the rows of each program say something (tools/fit_engine.py).

A program is an engine, its version, and whether it served requests over HTTP or ran offline. The
logarithm of its host's time is Gaussian around a common mean (a random effect); models deviate from
the prediction by a Gaussian, too, each with all its rows as one. One scale of the rows holds for
every GPU. Scale, mean and both standard deviations maximise the likelihood, in which the host's time
is integrated out on a grid: most programs were timed with large models alone, which say nothing of
their host but that it is not slow.

Programs released before 2025 schedule a step when the last one has ended (vLLM before its engine V1),
so that host and device take turns. Later ones overlap both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm
from scipy.stats import t as student

from flashnas.latency.calibration import INTERVAL, Calibration
from flashnas.latency.metrics import Request
from flashnas.latency.workload import Workload

Program = tuple[str, str, str]  # engine, version, serving
OVERLAP = 3.0  # 1: one after the other; infinite: the longer of host and device decides
LATEST: Program = ("vLLM", "main 2026-08", "offline")
TAKING_TURNS = {("vLLM", "0.4.2"), ("vLLM", "0.6.3"), ("TensorRT-LLM", "0.5")}
GRID = np.linspace(np.log(0.1), np.log(20.0), 160)  # ln(host's milliseconds)


@dataclass(frozen=True)
class Speed:
    """One row of the lists: what the kernels take, in microseconds, and what was measured."""

    table: str
    model: str
    network: str  # models that are alike in shape are one network
    program: Program
    workload: Workload
    metric: str
    measured_ms: float
    prefill_us: float
    step_us: float
    derived: dict[str, float]  # kind of kernel -> share of a step

    @property
    def overlap(self) -> float:
        return 1.0 if self.program[:2] in TAKING_TURNS else OVERLAP

    def log_errors(self, scale: float) -> np.ndarray:
        """ln(predicted / measured) for each host of the grid."""
        hosts, power = np.exp(GRID), self.overlap
        prefill, step = (
            ((scale * us / 1000) ** power + hosts**power) ** (1 / power)
            for us in (self.prefill_us, self.step_us)
        )
        generated = self.workload.generated_tokens
        predicted = {"ttft_ms": prefill, "tpot_ms": step, "latency_ms": prefill + generated * step}
        return np.asarray(np.log(predicted[self.metric] / self.measured_ms))

    def predicted(self, constants: Calibration) -> tuple[float, float, float]:
        """The metric with its interval."""
        steps = self.workload.generated_tokens
        request = Request(constants, self.workload, self.prefill_us, steps * self.step_us)
        values, bounds = request.figures([], int(self.workload.batch))
        return (values[self.metric], *bounds[self.metric])


@dataclass(frozen=True)
class Hosts:
    """The fit. mean, spread: of the logarithm of the host's milliseconds over programs. of_program:
    the same of one program, from its rows."""

    scale: float
    mean: float
    spread: float
    of_program: Mapping[Program, tuple[float, float]]

    @property
    def quantile(self) -> float:
        """Of a further program, in units of the spread: Student's."""
        programs = len(self.of_program)
        return float(student.ppf((1 + INTERVAL) / 2, programs - 1) * np.sqrt(1 + 1 / programs))

    def today(self, half_width: float = 0.0) -> Calibration:
        """What the tables hold: the host of the latest program. Its interval begins with the fastest
        that this host may be, and ends with the slowest that a further program may have."""
        mean, sd = self.of_program.get(LATEST, (self.mean, self.spread))
        lower, upper = mean - self.quantile * sd, self.mean + self.quantile * self.spread
        return self._calibration(mean, lower, upper, OVERLAP, half_width)

    def of(self, row: Speed, half_width: float = 0.0) -> Calibration:
        """For a row whose program is known."""
        mean, sd = self.of_program.get(row.program, (self.mean, self.spread))
        wide = self.quantile * sd
        return self._calibration(mean, mean - wide, mean + wide, row.overlap, half_width)

    def _calibration(
        self, mean: float, lower: float, upper: float, overlap: float, half_width: float
    ) -> Calibration:
        us, lower_us, upper_us = (1000 * float(np.exp(ln)) for ln in (mean, lower, upper))
        return Calibration(
            step_scale=self.scale,
            host_us=us,
            host_range_us=(lower_us, upper_us),
            overlap=overlap,
            half_width=half_width,
        )


def fit(rows: Iterable[Speed], hosts: Hosts | None = None) -> Hosts:
    """The most likely scale and hosts. hosts: whose mean and spread are kept."""
    programs: dict[Program, dict[tuple[str, str], list[Speed]]] = {}
    for row in rows:
        networks = programs.setdefault(row.program, {})
        networks.setdefault((row.table, row.network), []).append(row)

    def posteriors(values: Sequence[float]) -> dict[Program, np.ndarray]:
        ln_scale, ln_sd, mean, ln_spread = (*values, *kept)
        logs = {}
        for program, networks in programs.items():
            logs[program] = norm.logpdf(GRID, mean, np.exp(ln_spread)) + np.log(GRID[1] - GRID[0])
            for alike in networks.values():
                errors = np.array([row.log_errors(np.exp(ln_scale)) for row in alike])
                logs[program] -= (errors**2).mean(axis=0) / np.exp(2 * ln_sd) / 2 + ln_sd
        return logs

    kept = (hosts.mean, np.log(hosts.spread)) if hosts else ()
    start = np.log([1.05, 0.1, 1.7, 0.5][: 4 - len(kept)])
    found = minimize(
        lambda values: -sum(logsumexp(log) for log in posteriors(values).values()),
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-4, "maxiter": 2000},
    ).x
    best = (*found, *kept)
    of_program = {}
    for program, log in posteriors(found).items():
        weights = np.exp(log - logsumexp(log))
        mean = float(weights @ GRID)
        of_program[program] = mean, float(np.sqrt(weights @ (GRID - mean) ** 2))
    return Hosts(float(np.exp(best[0])), float(best[2]), float(np.exp(best[3])), of_program)
