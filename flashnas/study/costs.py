"""What the networks of a search cost, and which of them are allowed: table, workload, budgets and how to time
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import BudgetError, ConfigError, TableError
from flashnas.executors.job import UserEvaluator
from flashnas.latency.certificate import TIMES, Certificate
from flashnas.latency.costs import CostFunction, Costs, NoCosts, OwnCosts, TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import LARGER_IS_BETTER
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.space import SearchSpace
from flashnas.study.config import SearchConfig

if TYPE_CHECKING:  # they load torch
    from flashnas.profiling.program import Program
    from flashnas.profiling.setup import Setup


def load_costs(config: SearchConfig, table: str | LatencyTable | CostFunction | None, workload: Workload | None,
               evaluator: UserEvaluator | None) -> Costs:
    """The costs by a latency table, by the user's function, or none.

    Raises:
        ConfigError: for what only a latency table can answer.
    """
    if isinstance(table, str | LatencyTable):
        loaded = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
        asked = load_workload(config.workload if workload is None else workload).with_weights(config.weights)
        return TableCosts(LatencyModel(loaded, asked, mode=config.mode))
    if config.confidence is not None:
        raise ConfigError("search.confidence needs a latency table; got table=None or a function")
    if config.weights is not None:
        raise ConfigError(f"search.weights needs a latency table; got weights {config.weights} and table=None or a"
                          " function")
    if config.strict:
        raise ConfigError("search.strict needs a latency table, whose device times the finalists")
    if table is not None:
        return OwnCosts(table)
    if evaluator is None:
        raise ConfigError("search.table must name a latency table, or be a function network -> latency_ms, where"
                          " flashnas trains the networks; got None")
    if config.budgets:
        raise ConfigError(f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation: give"
                          " table=FUNCTION, network -> latency_ms or a mapping of metrics; got table=None")
    return NoCosts()


@dataclass(frozen=True)
class Measuring:
    """What a latency table offers beside its estimates.

    Attributes:
        certificate: what its validation says of them, if a confidence is asked for.
        timing: how the finalists are timed; None where the table's device is not at hand, or nothing is
            trained.
    """

    certificate: Certificate | None = None
    timing: Setup | Program | None = None


def load_measuring(config: SearchConfig, space: SearchSpace[Any], model: LatencyModel) -> Measuring:
    """The certificate and the timing of a search.

    Raises:
        TableError: there is no validation, or no device where one is needed.
        ConfigError: there is no budget that the confidence could hold.
    """
    certificate = None
    if config.confidence is not None:
        if not any(metric in (*TIMES, *LARGER_IS_BETTER) for metric in config.budgets):
            raise ConfigError("--confidence needs a budget on a time, such as --budget-ms")
        certificate = Certificate.of(model.table, model.workload, space_name=config.space, space_hash=space.hash,
                                     confidence=config.confidence)
    if not config.measure or not config.trials:
        return Measuring(certificate)
    if config.measure_every is not None and not any(kind.startswith("operator_") for kind in model.table.kinds):
        raise TableError(f"{model.table.path}: --measure-every corrects rows of whole operators, which table"
                         f" {model.table.name} does not have; measure them with flashnas profile")
    from flashnas.profiling.finalists import setup_here  # loads torch

    try:
        return Measuring(certificate, setup_here(model))
    except TableError as error:
        if config.strict or config.measure_every is not None:
            why = "--strict measures the finalists" if config.strict else "--measure-every times networks"
            raise TableError(f"{why}: {error}") from None
        return Measuring(certificate)


def load_fitter(config: SearchConfig, space: SearchSpace[Any], costs: Costs, certificate: Certificate | None,
                ) -> Fitter[Any]:
    """Fits widths to the budgets, and to the recall that is asked for.

    Raises:
        BudgetError: no network of the space meets the budgets.
    """
    allowed: Callable[[Any], bool] | None = None
    if (floor := config.min_recall) is not None:
        from flashnas.evidence.recall import load_recall

        model = load_recall()

        def allowed(network: Any) -> bool:
            return bool(model.predict([network.operators])[0][0] >= floor)

    budgets = config.bounds
    fitter = Fitter(space, costs, certificate.tightened(budgets) if certificate else budgets, allowed)
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.text() if certificate else ''}") from None
    return fitter
