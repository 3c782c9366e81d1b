"""The one definition of each metric, and budgets on them.

ttft_ms            time until the prompt (with meta tokens) is read; with a prompt, its last
position also
                   goes through the head and the first token is drawn
tpot_ms            mean time of one generation step over all generated tokens, at their growing
context;
                   0 if nothing is generated
latency_ms         the whole request: ttft_ms + generated_tokens x tpot_ms
throughput_tok_s   tokens that all sequences together generate per second while generating (batch /
tpot);
                   if nothing is generated, prompt tokens read per second
memory_gb          weights + caches at the end of the request + activations, in 10^9 bytes
params             parameters, a tied head counted once
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from flashnas.base.errors import BudgetError
from flashnas.base.text import one_of, shown

METRICS = {  # name -> unit
    "latency_ms": "ms",
    "ttft_ms": "ms",
    "tpot_ms": "ms",
    "throughput_tok_s": "tokens/s",
    "memory_gb": "GB",
    "params": "parameters",
}
LARGER_IS_BETTER = ("throughput_tok_s",)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a table predicts of one architecture under a workload; `lower_ms` and `upper_ms` bound
    `latency_ms`."""

    params: int
    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    lower_ms: float
    upper_ms: float
    throughput_tok_s: float
    memory_gb: float


PREDICTED = tuple(field.name for field in fields(Predicted))


def latency_ms(ttft_ms: float, tpot_ms: float, generated_tokens: int) -> float:
    return ttft_ms + generated_tokens * tpot_ms


def of_times(
    ttft_ms: float,
    tpot_ms: float,
    batch: int,
    prompt_tokens: int,
    generated_tokens: int,
) -> dict[str, float]:
    """The metrics that are times and rates, by name, from the times and tokens of each of `batch`
    sequences; no throughput if no time passes."""
    tokens, per_ms = (batch, tpot_ms) if generated_tokens else (batch * prompt_tokens, ttft_ms)
    return {
        "ttft_ms": ttft_ms,
        "tpot_ms": tpot_ms,
        "latency_ms": latency_ms(ttft_ms, tpot_ms, generated_tokens),
        "throughput_tok_s": 1000 * tokens / per_ms if per_ms else 0.0,
    }


@dataclass(frozen=True)
class Budget:
    """A limit on one metric: at most `limit` (throughput: at least). Raises BudgetError for an
    unknown metric, or a limit that is not a positive number.

    Example:
        >>> import flashnas as fn
        >>> budget = fn.Budget("latency_ms", 14_000)
        >>> budget.holds(13_999), budget.holds(14_001)
        (True, False)
    """

    metric: str
    limit: float

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BudgetError(one_of("budget metric", self.metric, METRICS))
        number = isinstance(self.limit, int | float) and not isinstance(self.limit, bool)
        if not number or not 0 < self.limit <= sys.float_info.max:
            raise BudgetError(
                f"budget {self.metric} must be a positive number; got {shown(self.limit)}"
            )

    def holds(self, value: float) -> bool:
        """True if the value is within the budget."""
        return value >= self.limit if self.metric in LARGER_IS_BETTER else value <= self.limit

    def __str__(self) -> str:
        return f"{self.metric}={self.limit:g}"
