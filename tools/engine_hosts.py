"""The host's time of the programs whose speeds are published: a log-normal of all programs beside
one GPU, of which the rows of each program say something (tools/fit_engine.py).

A program is an engine, its version, and whether it served requests over HTTP or ran offline. The
logarithm of its host's time is Gaussian (a random effect) around a mean of the GPU, beside which
stand processors of its years; models deviate from the prediction by a Gaussian, too, each with all
its rows as one. One scale of the rows holds for every GPU. Scale, means and both standard deviations
maximise the likelihood, in which the host's time is integrated out on a grid: most programs were
timed with large models alone, which say nothing of their host but that it is not slow. The logarithm
of the spread between programs is added, since the most likely spread of few programs is often 0
(Chung et al., Psychometrika 78, 2013).

Programs released before 2025 schedule a step when the last one has ended (vLLM before its engine
V1), so that host and device take turns. Later ones overlap both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm
from scipy.stats import t as student

from flashnas.latency.calibration import INTERVAL, OTHER, Calibration, Host
from flashnas.latency.metrics import Request
from flashnas.latency.workload import Workload

Program = tuple[str, str, str]  # engine, version, serving
OVERLAP = 3.0  # 1: one after the other; infinite: the longer of host and device decides
# the latest of each engine that was timed beside a GPU, by the names of `--runtime`
LATEST: dict[str, dict[str, Program]] = {
    "h100_sxm": {
        "vllm": ("vLLM", "main 2026-08", "offline"),
        "sglang": ("SGLang", "0.0.0.dev1+g631db6c75", "server"),
        "tensorrt-llm": ("TensorRT-LLM", "1.2.0rc1", "server"),
    },
    "a100_sxm": {},  # none of 2026
}
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
        prefill_us, decode_us = np.array([self.prefill_us]), np.array([steps * self.step_us])
        batch = int(self.workload.batch)
        request = Request(constants, self.workload, batch, prefill_us, decode_us)
        value, (lower, upper) = request.figures()[self.metric], request.bounds()[self.metric]
        return float(value[0]), float(lower[0]), float(upper[0])


@dataclass(frozen=True)
class Hosts:
    """The fit. means: table -> mean of the logarithm of the host's milliseconds over programs.
    spread: its standard deviation. of_program: mean, and the ends of the 90 % interval, of the
    logarithm of one program, from its rows."""

    scale: float
    means: Mapping[str, float]
    spread: float
    of_program: Mapping[Program, tuple[float, float, float]]

    def host(self, table: str, program: Program | None = None) -> Host:
        """Of a program, or of one that was not timed: Student's interval."""
        programs, degrees = len(self.of_program), len(self.of_program) - len(self.means)
        quantile = student.ppf((1 + INTERVAL) / 2, degrees) * np.sqrt(1 + 1 / programs)
        mean, wide = self.means[table], float(quantile) * self.spread
        other = mean, mean - wide, mean + wide
        logs = other if program is None else self.of_program.get(program, other)
        us, lower_us, upper_us = (round(1000 * float(np.exp(ln))) for ln in logs)
        return Host(us, (lower_us, upper_us), " ".join(program or ()))

    def hosts(self, table: str) -> dict[str, Host]:
        """What a table holds."""
        latest = {name: self.host(table, program) for name, program in LATEST[table].items()}
        return {**latest, OTHER: self.host(table)}

    def of(self, row: Speed, half_width: float = 0.0) -> Calibration:
        """For a row whose program is known."""
        host = self.host(row.table, row.program)
        return Calibration(
            step_scale=self.scale,
            host_us=host.us,
            host_range_us=host.range_us,
            overlap=row.overlap,
            half_width=half_width,
        )


def fit(rows: Iterable[Speed], hosts: Hosts | None = None) -> Hosts:
    """The most likely scale and hosts. hosts: whose means and spread are kept."""
    programs: dict[Program, dict[tuple[str, str], list[Speed]]] = {}
    for row in rows:
        networks = programs.setdefault(row.program, {})
        networks.setdefault((row.table, row.network), []).append(row)
    tables = sorted({table for networks in programs.values() for table, _ in networks})
    kept = [np.log(hosts.spread), *(hosts.means[table] for table in tables)] if hosts else []

    def posteriors(values: Sequence[float]) -> dict[Program, np.ndarray]:
        ln_scale, ln_sd, ln_spread, *means = (*values, *kept)
        mean_of, logs = dict(zip(tables, means, strict=True)), {}
        for program, networks in programs.items():
            ((table, _), *_) = networks
            prior = norm.logpdf(GRID, mean_of[table], np.exp(ln_spread))
            logs[program] = prior - logsumexp(prior)
            for alike in networks.values():
                errors = np.array([row.log_errors(np.exp(ln_scale)) for row in alike])
                logs[program] -= (errors**2).mean(axis=0) / np.exp(2 * ln_sd) / 2 + ln_sd
        return logs

    start = np.log([1.05, 0.1, *([] if hosts else [0.5, *(1.7 for _ in tables)])])
    found = minimize(
        lambda values: (
            -sum(logsumexp(log) for log in posteriors(values).values()) - (*values, *kept)[2]
        ),
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-4, "maxiter": 4000},
    ).x
    of_program = {}
    for program, log in posteriors(found).items():
        weights = np.exp(log - logsumexp(log))
        tail = (1 - INTERVAL) / 2
        ends = np.interp((tail, 1 - tail), np.cumsum(weights), GRID)
        of_program[program] = (float(weights @ GRID), *map(float, ends))
    ln_scale, _, ln_spread, *means = (*found, *kept)
    by_table = dict(zip(tables, map(float, means), strict=True))
    return Hosts(float(np.exp(ln_scale)), by_table, float(np.exp(ln_spread)), of_program)
