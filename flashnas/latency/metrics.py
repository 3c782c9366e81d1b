"""The one definition of each metric, budgets on them, and the estimate that states them.

ttft_ms            time until the prompt (with meta tokens) is read; with a prompt, its last
                   position also goes through the head and the first token is drawn
tpot_ms            mean time of one generation step, which reads a token and draws the next one,
                   over as many steps as tokens are generated, at their growing context; 0 if nothing
                   is generated
latency_ms         the whole request: ttft_ms + generated_tokens x tpot_ms. The last generated token
                   is read, too, so that it can go on. A program that stops with the last token
                   drawn takes one step less after a prompt: its request of N tokens is one of N - 1
                   here (observations/read_times.py)
throughput_tok_s   tokens that all sequences together generate per second while generating (batch /
                   tpot); if nothing is generated, prompt tokens read per second
memory_gb          what an engine allocates, in 10^9 bytes: weights + pages of keys, values and states
                   at the end of the request + activations (latency/memory.py)
params             parameters, a tied head counted once
active_params      the same without experts that one token does not pass

Of a server, computed where they are asked for:

sequences          requests of the workload that fit beside the weights at once, each with all of its
                   tokens; an engine's own limit (vLLM: max_num_seqs) may be lower
block_tokens       tokens of a page of attention: what was read before is reused in whole ones; 0 of a
                   network without attention, of which nothing is reused
turn2_ttft_ms      time to the first token of a second turn, of the whole batch: the tokens of the request
                   and turn2_tokens new ones, less those that are reused. Of a network of full attention
                   these are all whole pages; with recurrent layers or windows those of the prompt alone,
                   since vLLM 0.32 keeps their states where it ends (--prefix-cache-retention-interval
                   keeps more)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from flashnas.base.errors import BudgetError, WorkloadError
from flashnas.base.text import one_of, shown
from flashnas.latency.calibration import INTERVAL, OWN, BoundedTime, Calibration, around
from flashnas.latency.workload import Workload
from flashnas.operators import Phase
from flashnas.operators.kernel import PHASES

EMBEDDING, HEAD, HOST = "embedding", "head", "engine"
METRICS = {  # name -> unit
    "latency_ms": "ms",
    "ttft_ms": "ms",
    "tpot_ms": "ms",
    "throughput_tok_s": "tokens/s",
    "memory_gb": "GB",
    "params": "parameters",
    "active_params": "parameters",
    "sequences": "at once",
    "block_tokens": "tokens",
    "turn2_ttft_ms": "ms",
}
LARGER_IS_BETTER = ("throughput_tok_s", "sequences")
SIZES = ("memory_gb", "params", "active_params")
SERVING = ("sequences", "block_tokens", "turn2_ttft_ms")
STATED = tuple(name for name in METRICS if name not in SERVING)  # by an Estimate
UNTIMED = (*SIZES, "sequences", "block_tokens")  # no time is needed for them
TIMES = ("latency_ms", "ttft_ms", "tpot_ms", "throughput_tok_s")  # that have an interval
PREDICTED = (*METRICS, "lower_ms", "upper_ms")  # these bound latency_ms
# ends of intervals: of which metric, 0 lower or 1 upper; those that are worse last
ENDS = {
    "lower_ms": ("latency_ms", 0),
    "upper_ms": ("latency_ms", 1),
    "ttft_upper_ms": ("ttft_ms", 1),
    "tpot_upper_ms": ("tpot_ms", 1),
    "throughput_lower_tok_s": ("throughput_tok_s", 0),
}
UPPER_END = {metric: name for name, (metric, end) in ENDS.items() if end}

Amount = TypeVar("Amount", float, np.ndarray)  # of one network, or of many [N]


def of_times(
    ttft_ms: Amount,
    tpot_ms: Amount,
    batch: int | np.ndarray,
    workload: Workload,
) -> dict[str, Amount]:
    """The metrics that are times and rates, by name, from the times of a workload, of which each of
    `batch` sequences is; no throughput if no time passes."""
    generated = workload.generated_tokens
    tokens, per_ms = (batch, tpot_ms) if generated else (batch * workload.prompt_tokens, ttft_ms)
    passes: Any = per_ms != 0
    return {
        "ttft_ms": ttft_ms,
        "tpot_ms": tpot_ms,
        "latency_ms": ttft_ms + generated * tpot_ms,
        "throughput_tok_s": 1000 * tokens * passes / (per_ms + (1 - passes)),
    }


@dataclass(frozen=True)
class Budget:
    """A limit on one metric: at most `limit` (throughput and sequences: at least). worse: it holds for
    the end of its interval that is worse. Raises BudgetError for an unknown metric, or a limit that is
    not a positive number.

    Example:
        >>> import flashnas as fn
        >>> budget = fn.Budget("latency_ms", 14_000)
        >>> budget.holds(13_999), budget.holds(14_001)
        (True, False)
    """

    metric: str
    limit: float
    worse: bool = False

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BudgetError(one_of("budget metric", self.metric, METRICS))
        number = isinstance(self.limit, int | float) and not isinstance(self.limit, bool)
        if not number or not 0 < self.limit <= sys.float_info.max:
            raise BudgetError(
                f"budget {self.metric} must be a positive number; got {shown(self.limit)}"
            )

    @property
    def column(self) -> str:
        """What is held against it: the metric, or an end of its interval."""
        worse = {metric: end for end, (metric, _) in ENDS.items()}
        return worse.get(self.metric, self.metric) if self.worse else self.metric

    def holds(self, value: float | np.ndarray) -> bool | np.ndarray:
        """True if the value is within the budget; of values [N] each."""
        return value >= self.limit if self.metric in LARGER_IS_BETTER else value <= self.limit

    def __str__(self) -> str:
        return f"{self.metric}={self.limit:g}"


# -- what an estimate consists of ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel, or a whole operator, in one phase, over the whole request."""

    phase: Phase
    kernel: str
    label: str
    total: BoundedTime


@dataclass(frozen=True, slots=True)
class Cost:
    """An operator, the embedding or the head: microseconds over the whole request, of its prompt and
    its steps. widening: phase and kernel -> time of the parts whose bounds count beside those of
    whole models, and by how much it may be less, and more."""

    parts: tuple[Part, ...]
    us: tuple[float, float]
    widening: Mapping[tuple[Phase, str], np.ndarray]


@dataclass(slots=True)
class Request:
    """The times of one request to each of many networks [N]: what their parts add up to under a
    calibration. widening: of them all, [3, N] each. factors: of prompt and step of each, [N, 2], by
    observed times."""

    calibration: Calibration
    workload: Workload
    batch: int
    prefill_us: Any
    decode_us: Any
    widening: Mapping[tuple[Phase, str], Any] = field(default_factory=dict)
    factors: Any = 1.0

    @property
    def ttft_ms(self) -> Any:
        """By the table. What the host adds is of a step, and the same in one that reads a prompt."""
        return self.calibration.step_us(self.prefill_us) / 1000

    @property
    def tpot_ms(self) -> Any:
        """By the table."""
        steps = max(self.workload.generated_tokens, 1)  # decode_us is 0 where there are none
        return self.calibration.step_us(self.decode_us / steps) / 1000

    def host(self) -> list[Part]:
        """What the calibration adds to the steps of a whole model, of the first network."""
        if not self.calibration.host_us and self.calibration.step_scale == 1:
            return []
        totals = (self.ttft_ms, self.tpot_ms * self.workload.generated_tokens)
        rows = (self.prefill_us, self.decode_us)
        return [
            Part(phase, "calibration", "host and gaps", around(float(1000 * ms[0] - us[0]), 0.0))
            for phase, ms, us in zip(PHASES, totals, rows, strict=True)
            if us[0]
        ]

    def rates(self, ttft_ms: Any, tpot_ms: Any) -> dict[str, Any]:
        """The metrics that are times and rates, from these times."""
        return of_times(ttft_ms, tpot_ms, self.batch, self.workload)

    def figures(self) -> dict[str, Any]:
        """The metrics that are times and rates, as observed times correct them."""
        by_prompt, by_step = np.broadcast_to(self.factors, (len(self.prefill_us), 2)).T
        return self.rates(self.ttft_ms * by_prompt, self.tpot_ms * by_step)

    def bounds(self) -> dict[str, tuple[Any, Any]]:
        """The interval of each of these by the table."""
        calibration, steps = self.calibration, max(self.workload.generated_tokens, 1)
        width = calibration.half_width_of(self.tpot_ms, self.batch)
        phases = zip(
            PHASES,
            (1, steps),
            (self.prefill_us, self.decode_us),
            (self.ttft_ms, self.tpot_ms),
            strict=True,
        )
        intervals = []
        for phase, runs, us, ms in phases:
            parts = {kernel: of for (its, kernel), of in self.widening.items() if its == phase}
            by_hosts = calibration.by_hosts(us / runs)
            interval = calibration.interval(phase, 1000 * ms * runs, parts, width, by_hosts)
            intervals.append([bound_us / 1000 / runs for bound_us in interval])
        low, high = (self.rates(*times) for times in zip(*intervals, strict=True))
        return {
            name: (np.minimum(low[name], high[name]), np.maximum(low[name], high[name]))
            for name in low
        }


def source_shares(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the time by source, the largest first."""
    sources: dict[str, float] = {}
    for entry in entries:
        sources[entry["source"]] = sources.get(entry["source"], 0.0) + entry["share"]
    return dict(sorted(sources.items(), key=lambda item: -item[1]))


def observed_line(observed: Mapping[str, Any]) -> str:
    """What observed times correct a model by; observed: of a LatencyModel."""
    times = "1 observed time" if observed["times"] == 1 else f"{observed['times']} observed times"
    mean, lower, upper = observed["factor"]
    return (
        f"{times} of {observed['program']} on {observed['device']}: factor {mean:.2f}"
        f" ({lower:.2f} to {upper:.2f})"
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The predicted metrics of one architecture, as defined above, with their parts; `lower_ms` and
    `upper_ms` bound `latency_ms`.

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
        observed: what observed times corrected: program, device, number of times, common factor
            with its bounds, digest; table_ms, latency_ms with its bounds by the table alone;
            latency_ms, observed ones of this network. Empty without observed times.
    """

    params: int
    active_params: int
    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    lower_ms: float
    upper_ms: float
    throughput_tok_s: float
    memory_gb: float
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
    observed: Mapping[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> float:
        """One metric by name; raises WorkloadError for one that does not exist."""
        if name not in STATED:
            raise WorkloadError(one_of("metric", name, STATED))
        return float(getattr(self, name))

    def operators_ms(self) -> dict[str, dict[str, float]]:
        """Milliseconds of the request by kind of operator and source."""
        times: dict[str, dict[str, float]] = {}
        for part in self.breakdown:
            by_source = times.setdefault(part["operator"], {})
            by_source[part["source"]] = by_source.get(part["source"], 0.0) + part["ms"]
        return times

    def to_dict(self) -> dict[str, Any]:
        return {"notation": self.notation, "hash": self.hash, **vars(self)}
