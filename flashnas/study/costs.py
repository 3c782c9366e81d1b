"""What the networks of a search cost, and which of them are allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashnas.base.errors import BudgetError, ConfigError
from flashnas.latency.certificate import Certificate
from flashnas.latency.costs import CostFunction, Costs, NoCosts, OwnCosts, TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.prediction import model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig


def load_costs(config: SearchConfig, table: str | LatencyTable | CostFunction | None,
               workload: Workload | None, *, evaluated: bool) -> Costs:
    """The costs by a latency table, by the user's function, or none. evaluated: by a user's function. Raises
    ConfigError for what only a latency table can answer."""
    if isinstance(table, str | LatencyTable):
        workload = load_workload(config.workload if workload is None else workload)
        return TableCosts(model_of(table, workload.with_weights(config.weights), mode=config.mode))
    if config.confidence is not None:
        raise ConfigError("search.confidence needs a latency table; got table=None or a function")
    if config.weights is not None:
        raise ConfigError(f"search.weights needs a latency table; got weights {config.weights} and table=None"
                          " or a function")
    if config.strict:
        raise ConfigError("search.strict needs a latency table, whose device times the finalists")
    if table is not None:
        return OwnCosts(table)
    if not evaluated:
        raise ConfigError("search.table must name a latency table, or be a function network -> latency_ms,"
                          " where flashnas trains the networks; got None")
    if config.budgets:
        raise ConfigError(f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation:"
                          " give table=FUNCTION, network -> latency_ms or a mapping of metrics; got"
                          " table=None")
    return NoCosts()


def load_fitter(config: SearchConfig, space: SearchSpace[Any], costs: Costs, certificate: Certificate | None,
                holds: Callable[[Any], bool]) -> Fitter[Any]:
    """Fits widths to the budgets and to the recall that is asked for. holds: as of a Fitter. Raises
    BudgetError where no network of the space meets the budgets."""
    allowed: Callable[[Any], bool] | None = None
    if (floor := config.min_recall) is not None:
        from flashnas.evidence.recall import load_recall

        model = load_recall()

        def allowed(network: Any) -> bool:
            return bool(model.predict([network.operators])[0][0] >= floor)

    budgets = config.bounds
    fitter = Fitter(space, costs, certificate.tightened(budgets) if certificate else budgets, allowed, holds)
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.text() if certificate else ''}") from None
    return fitter
