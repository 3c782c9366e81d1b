"""What the networks of a search cost, and which of them are allowed; checked before anything is
trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError
from flashnas.base.text import range_of, tokens_text
from flashnas.latency.fitting import CostFunction, Costs, Fitter, TableCosts
from flashnas.latency.own_costs import NoCosts, OwnCosts
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SPACE_OF, SearchConfig

DRAWN = 256  # genotypes looked at before a program is said to run no network of a space


def check_networks(space: SearchSpace[Any], *, trained: bool, timed: bool) -> None:
    """Raise ConfigError if flashnas has to train or to time networks of the space, and cannot."""
    if isinstance(space, OperatorSpace):
        return
    network = space.any_network()
    for name in ("notation", "hash", "to_dict"):
        if not hasattr(network, name):
            raise ConfigError(
                f"space {space.name!r}: its networks need {name!r}; got {type(network).__name__}"
            )
    if isinstance(network, Architecture):
        return
    for needed, rule in (
        (trained, "flashnas cannot train; give an evaluator"),
        (
            timed,
            "a latency table cannot answer; give table=None or a function network -> latency_ms",
        ),
    ):
        if needed:
            raise ConfigError(
                f"space {space.name!r} builds {type(network).__name__} objects, which {rule}"
            )


def check_answerable(space: SearchSpace[Any], model: LatencyModel) -> None:
    """Raise MissingRowsError when the table lacks what the space needs. Each operator is looked up
    at each width in a pure model, since the largest batch of a single operator would be one that no
    network has."""
    if not isinstance(space, OperatorSpace):
        return
    models = [operators for _, operators in space.pure_models()]
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            operators = next((operators for operators in models if spec in operators), (spec,))
            try:
                model.estimate(space.build(operators, hidden))
            except BudgetError:
                continue  # not even one sequence fits the memory; the budgets say what does
            except MissingRowsError as error:
                raise MissingRowsError(
                    f"table {model.table.name!r} does not cover space {space.name!r}: {error}"
                ) from None


def network_holds(config: SearchConfig, space: SearchSpace[Any]) -> Callable[[Any], bool]:
    """Network -> whether it has the parameters and layers that are asked for, and the program that
    is asked for runs it without flashnas. Raises SettingError, with the rule that is broken, if
    none of DRAWN networks of the space does."""
    rules: dict[str, Callable[[Any], bool]] = {}
    if config.params is not None:
        least, most = range_of(config.params)
        rules["params"] = lambda network: least <= network.params <= most
    if (layers := config.min_layers) is not None:
        rules["min_layers"] = lambda network: _layers_of(network) >= layers
    if (program := config.runtime) is not None:
        from flashnas.formats.fitting import refusal
        from flashnas.formats.programs import FORMATS  # loads torch

        rules["runtime"] = lambda network: not refusal(network, FORMATS, program)
    if not rules:
        return lambda network: True
    if not isinstance(space.any_network(), Architecture):
        config.wrong(
            next(iter(rules)),
            f"needs networks of flashnas' operators, unlike space {space.name!r}",
        )
    rng = np.random.default_rng(config.seed)
    drawn: list[Any] = []
    for _ in range(DRAWN):
        drawn += space.architectures(space.sample(rng))
    for name, rule in rules.items():
        if any(map(rule, drawn)):
            continue
        if name == "runtime":
            line = refusal(drawn[-1], FORMATS, str(program))
            config.wrong(
                name,
                f"{program} runs no network of space {space.name!r}; it runs those of"
                f" {SPACE_OF[str(program)]!r}: {line}",
            )
        counts = [network.params for network in drawn]
        have = f"{tokens_text(min(counts))} to {tokens_text(max(counts))}"
        if name == "min_layers":
            have = f"at most {max(map(_layers_of, drawn))} token mixers"
        config.wrong(
            name,
            f"{getattr(config, name)} has no network of space {space.name!r}; those drawn have"
            f" {have}",
        )
    return lambda network: all(rule(network) for rule in rules.values())


def _layers_of(network: Architecture) -> int:
    """The token mixers of a network."""
    return sum(spec.mixes_tokens for spec in network.operators)


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
    if config.weights is not None:
        raise ConfigError(
            f"search.weights needs a latency table; got weights {config.weights} and table=None"
            " or a function"
        )
    if table is not None:
        return OwnCosts(table)
    if not evaluated:
        raise ConfigError(
            "search.table must name a latency table, or be a function network -> latency_ms,"
            " where flashnas trains the networks; got None"
        )
    if config.budgets:
        raise ConfigError(
            f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation: give"
            " table=FUNCTION, network -> latency_ms or a mapping of metrics; got table=None"
        )
    return NoCosts()


def load_fitter(config: SearchConfig, space: SearchSpace[Any], costs: Costs) -> Fitter[Any]:
    """Fits widths to the budgets. Raises BudgetError where no network of the space meets them."""
    fitter = Fitter(space, costs, config.bounds, network_holds(config, space))
    fitter.check_possible(config.seed)
    return fitter
