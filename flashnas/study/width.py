"""Width by construction: operators get the largest hidden size that meets the budgets, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.metrics import LARGER_IS_BETTER, Budget, fits
from flashnas.latency.prediction import Estimate, LatencyModel
from flashnas.operators import OperatorSpec
from flashnas.space import OperatorSpace

PROBES = 256              # genotypes looked at before a budget is called impossible


class WidthFitter:
    """Gives operators the largest width of the space that meets every budget; answers come from the table alone."""

    def __init__(self, space: OperatorSpace[Any], model: LatencyModel, budgets: Sequence[Budget]) -> None:
        self.space, self.model, self.budgets = space, model, list(budgets)
        self._fitted: dict[tuple[OperatorSpec, ...], Architecture | None] = {}
        self._estimates: dict[Architecture, Estimate] = {}
        self._latencies: dict[Architecture, float] = {}

    def estimate(self, architecture: Architecture) -> Estimate:
        if architecture not in self._estimates:
            self._estimates[architecture] = self.model.estimate(architecture)
        return self._estimates[architecture]

    def fit(self, operators: tuple[OperatorSpec, ...]) -> Architecture | None:
        """The widest architecture within the budgets, or None."""
        if operators not in self._fitted:
            self._fitted[operators] = self._fit(operators)
        return self._fitted[operators]

    def _fit(self, operators: tuple[OperatorSpec, ...]) -> Architecture | None:
        if {budget.metric for budget in self.budgets} != {"latency_ms"}:
            return self.space.fit_operators(operators, lambda a: fits(self.estimate(a), self.budgets))
        # latency alone is answered for all widths at once; searches ask for it thousands of times a cycle
        widths = [self.space.build(operators, hidden) for hidden in self.space.hidden_sizes]
        within = [architecture for architecture, latency_ms in zip(widths, self.model.latencies(widths), strict=True)
                  if all(budget.holds(float(latency_ms)) for budget in self.budgets)]
        return within[-1] if within else None

    def latency_of(self, genotype: Any) -> tuple[Architecture | None, float | None]:
        """The fitted architecture and its latency_ms; when nothing fits, None and the latency of the narrowest."""
        architecture = self.fit(self.space.operators(genotype))
        timed = architecture or self.space.architecture(genotype, self.space.hidden_sizes[0])
        if timed not in self._latencies:
            self._latencies[timed] = float(self.model.latencies([timed])[0])
        return architecture, self._latencies[timed]

    def check_possible(self, seed: int) -> None:
        """Raise BudgetError with the fastest found when the budgets look out of reach of the whole space."""
        rng = np.random.default_rng(seed)
        narrowest = self.space.hidden_sizes[0]
        fastest: tuple[float, Any, Estimate] | None = None
        for _ in range(PROBES):
            genotype = self.space.sample(rng)
            if fastest is not None and rng.random() < 0.7:
                genotype = self.space.mutate(fastest[1], rng)
            estimate = self.estimate(self.space.architecture(genotype, narrowest))
            if fits(estimate, self.budgets):
                return
            excess = max(_excess(estimate.metric(budget.metric), budget) for budget in self.budgets)
            if fastest is None or excess < fastest[0]:
                fastest = (excess, genotype, estimate)
        assert fastest is not None
        figures = ", ".join(f"{b.metric} {fastest[2].metric(b.metric):,.4g} (budget {b.limit:,.6g})"
                            for b in self.budgets)
        notation = self.space.architecture(fastest[1], narrowest).notation
        raise BudgetError(f"no architecture of space {self.space.name!r} meets the budget; the fastest found has"
                          f" {figures}: {notation}")


def _excess(value: float, budget: Budget) -> float:
    """How many times over the budget; below 1 within it."""
    return budget.limit / value if budget.metric in LARGER_IS_BETTER else value / budget.limit
