"""The one definition of each figure, and budgets on them.

    ttft_ms            time until the prompt (with meta tokens) is read; with a prompt, its last position also goes
                       through the head and the first token is drawn
    tpot_ms            mean time of one generation step over all generated tokens, at their growing context;
                       0 if nothing is generated
    latency_ms         the whole request: ttft_ms + generated_tokens x tpot_ms
    throughput_tok_s   tokens that all sequences together generate per second while generating (batch / tpot); if
                       nothing is generated, prompt tokens read per second
    memory_gb          weights + caches at the end of the request + activations, in 10^9 bytes
    params             parameters, a tied head counted once
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol

from flashnas.base.errors import BudgetError
from flashnas.base.hints import one_of

FIGURES = {  # name -> unit
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
    """What a table predicts of one architecture under a workload; `lower_ms` and `upper_ms` bound `latency_ms`."""

    params: int
    ttft_ms: float
    tpot_ms: float
    latency_ms: float
    lower_ms: float
    upper_ms: float
    throughput_tok_s: float
    memory_gb: float


PREDICTED = tuple(field.name for field in fields(Predicted))


class HasFigures(Protocol):
    """Anything that knows its figures by name, such as an Estimate."""

    def figure(self, name: str) -> float: ...


def latency_ms(ttft_ms: float, tpot_ms: float, generated_tokens: int) -> float:
    """The whole request in ms."""
    return ttft_ms + generated_tokens * tpot_ms


def throughput_tok_s(ttft_ms: float, tpot_ms: float, batch: int, prompt_tokens: int, generated_tokens: int) -> float:
    """Tokens per second of all sequences together.

    Args:
        ttft_ms, tpot_ms: of the request.
        batch: sequences.
        prompt_tokens, generated_tokens: of each sequence.

    Returns:
        Generated tokens per second of generation; prompt tokens per second of reading if nothing is generated; 0 if no
        time passes.
    """
    tokens, per_ms = (batch, tpot_ms) if generated_tokens else (batch * prompt_tokens, ttft_ms)
    return 1000 * tokens / per_ms if per_ms else 0.0


@dataclass(frozen=True)
class Budget:
    """A limit on one figure: at most `limit` (throughput: at least). Raises BudgetError for an unknown figure."""

    figure: str
    limit: float

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise BudgetError(one_of("budget figure", self.figure, FIGURES))
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise BudgetError(f"budget {self.figure} must be a positive number; got {self.limit!r}")

    @property
    def unit(self) -> str:
        return FIGURES[self.figure]

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.figure in LARGER_IS_BETTER else value <= self.limit

    def __str__(self) -> str:
        return f"{self.figure}={self.limit:g}"


def parse_budget(text: str) -> Budget:
    """`tpot_ms=2.0` -> Budget; raises BudgetError."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:<=|=)\s*(\S+)\s*", text)
    if not match:
        raise BudgetError(f"budget must read FIGURE=LIMIT, such as tpot_ms=2.0; got {text!r}")
    try:
        limit = float(match[2])
    except ValueError:
        raise BudgetError(f"budget {match[1]} must be a number; got {match[2]!r}") from None
    return Budget(match[1], limit)


def make_budgets(budget_ms: float | None = None, budgets: Iterable[str] = ()) -> tuple[Budget, ...]:
    """The budgets of a command line.

    Args:
        budget_ms: of `--budget-ms`; bounds latency_ms.
        budgets: texts of `--budget`, such as `tpot_ms=2.0`.

    Raises:
        BudgetError: a text that is not a budget, or a figure that is given twice.
    """
    result = [Budget("latency_ms", float(budget_ms))] if budget_ms is not None else []
    result += [parse_budget(text) for text in budgets]
    names = [budget.figure for budget in result]
    for name in names:
        if names.count(name) > 1:
            raise BudgetError(f"budget {name} is given twice")
    return tuple(result)


def fits(estimate: HasFigures, budgets: Iterable[Budget]) -> bool:
    """True if the estimate is within every budget."""
    return all(budget.holds(estimate.figure(budget.figure)) for budget in budgets)
