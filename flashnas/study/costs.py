"""What the networks of a search cost, which of them are allowed, and what a latency table offers
besides estimates: a certificate, and times from its device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flashnas.base.errors import BudgetError, ConfigError, TableError
from flashnas.latency.certificate import TIMES, Certificate
from flashnas.latency.fitting import CostFunction, Costs, Fitter, NoCosts, OwnCosts, TableCosts
from flashnas.latency.metrics import LARGER_IS_BETTER
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.space import SearchSpace
from flashnas.study.checks import network_holds
from flashnas.study.config import SearchConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """Which networks a search allows. fitter: fits widths to the budgets. certificate: what the
    table's validation says of its predictions, if a confidence is asked for. timing: how the
    finalists are timed (`flashnas.profiling`), or None."""

    fitter: Fitter[Any]
    certificate: Certificate | None
    timing: Any


def load_limits(config: SearchConfig, space: SearchSpace[Any], costs: Costs) -> Limits:
    """Raises BudgetError where no network of the space meets the budgets, TableError or ConfigError
    where the table cannot do what is asked for."""
    certificate = timing = None
    if isinstance(costs, TableCosts):
        certificate = load_certificate(config, space, costs.model)
        timing = load_timing(config, costs.model)
    fitter = load_fitter(config, space, costs, certificate, network_holds(config, space))
    return Limits(fitter=fitter, certificate=certificate, timing=timing)


def load_costs(
    config: SearchConfig,
    table: str | LatencyTable | CostFunction | None,
    workload: Workload | None,
    *,
    evaluated: bool,
) -> Costs:
    """The costs by a latency table, by the user's function, or none. evaluated: by a user's
    function. Raises ConfigError for what only a latency table can answer."""
    if isinstance(table, str | LatencyTable):
        workload = load_workload(config.workload if workload is None else workload)
        workload = workload.with_weights(config.weights)
        return TableCosts(
            model_of(table, workload, calibration=config.calibration, mode=config.mode)
        )
    if config.confidence is not None:
        raise ConfigError("search.confidence needs a latency table; got table=None or a function")
    if config.weights is not None:
        raise ConfigError(
            f"search.weights needs a latency table; got weights {config.weights} and table=None"
            " or a function"
        )
    if config.strict:
        raise ConfigError("search.strict needs a latency table, whose device times the finalists")
    if table is not None:
        return OwnCosts(table)
    if not evaluated:
        raise ConfigError(
            "search.table must name a latency table, or be a function network -> latency_ms,"
            " where flashnas trains the networks; got None"
        )
    if config.budgets:
        raise ConfigError(
            f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation:"
            " give table=FUNCTION, network -> latency_ms or a mapping of metrics; got"
            " table=None"
        )
    return NoCosts()


def load_fitter(
    config: SearchConfig,
    space: SearchSpace[Any],
    costs: Costs,
    certificate: Certificate | None,
    holds: Callable[[Any], bool],
) -> Fitter[Any]:
    """Fits widths to the budgets and to the recall that is asked for. holds: as of a Fitter. Raises
    BudgetError where no network of the space meets the budgets."""
    allowed: Callable[[Any], bool] | None = None
    if (floor := config.min_recall) is not None:
        from flashnas.evidence.recall import load_recall

        model = load_recall()

        def allowed(network: Any) -> bool:
            return bool(model.predict([network.operators])[0][0] >= floor)

    budgets = config.bounds
    fitter = Fitter(
        space, costs, certificate.tightened(budgets) if certificate else budgets, allowed, holds
    )
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.text() if certificate else ''}") from None
    return fitter


def load_certificate(
    config: SearchConfig, space: SearchSpace[Any], model: LatencyModel
) -> Certificate | None:
    """What the table's validation says of its predictions, if a confidence is asked for. Raises
    TableError without a validation, ConfigError without a budget that the confidence could hold."""
    if config.confidence is None:
        return None
    if not any(metric in (*TIMES, *LARGER_IS_BETTER) for metric in config.budgets):
        raise ConfigError("search.confidence needs a budget on a time, such as --budget-ms")
    return Certificate.of(
        model.table,
        model.workload,
        space_name=config.space,
        space_hash=space.hash,
        confidence=config.confidence,
    )


def load_timing(config: SearchConfig, model: LatencyModel) -> Any:
    """How networks are timed (`flashnas.profiling`); None where the table's device is not at hand,
    or nothing is trained. Raises TableError with `strict`."""
    if not config.measure or not config.trials:
        return None
    from flashnas.profiling.target import target_like  # loads torch

    try:
        return target_like(model.table, dtype=model.dtype)
    except TableError as error:
        if config.strict:
            raise TableError(f"search.strict measures the finalists: {error}") from None
        return None
