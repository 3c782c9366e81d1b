"""The objects that a user passes to `fn.search`: checked before anything rests on them."""

from collections.abc import Mapping
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import is_number, shown
from flashnas.latency.fitting import CostFunction, Costs, NoCosts, OwnCosts
from flashnas.loss.prediction import Prediction, check_array
from flashnas.run_folder.recorded_answer import Reasons
from flashnas.space import SearchSpace
from flashnas.study.config import EXPECTED, SearchConfig
from flashnas.study.scorer import Scorer
from flashnas.trials.trial import EXPECTED_FIGURES

MEMBERS = tuple(name for name in vars(Scorer) if not name.startswith("_"))
ARRAYS = "values", "recalls"  # methods that return a number for each network


def check_scorer(scorer: Any, network: Any, evaluator: Any) -> None:
    """Ask a scorer of the user's for all that it says of a network, of arrays that of three.

    Raises:
        ConfigError: the search cannot use it, or it lacks a method, or a method returns another
            type or shape than `Scorer` states.
        PluginError: a method raises.
    """
    if evaluator is not None:
        raise ConfigError("search.scorer and search.evaluator both rank networks; give one of them")
    if not isinstance(network, Architecture):
        raise ConfigError(
            "search.scorer ranks networks of flashnas' operators; this space builds"
            f" {type(network).__name__} objects"
        )
    name = f"scorer {type(scorer).__name__}"
    if lacking := [member for member in MEMBERS if not hasattr(scorer, member)]:
        raise ConfigError(
            f"search.scorer must have all of flashnas.study.scorer.Scorer; {name} has no"
            f" {', '.join(lacking)}"
        )
    with foreign_errors(("scorer", scorer)):
        prediction = scorer.posterior([network] * 3)
        arrays = {method: getattr(scorer, method)([network] * 3) for method in ARRAYS}
        figures = scorer.figures(network)
        reasons = scorer.reasons([network, network])
    if not isinstance(prediction, Prediction):
        raise ConfigError(f"{name}: posterior must return a Prediction; got {shown(prediction)}")
    with foreign_errors(("scorer", scorer)):
        arrays |= {"posterior": prediction.mean, "posterior.sd_to": prediction.sd_to(0)}
    for method, found in arrays.items():
        check_array(f"{name}: {method} of 3 networks", found, (3,))
    for method, got, needed in (
        ("figures", figures, EXPECTED_FIGURES),
        ("reasons", reasons, Reasons.__annotations__),
        ("its attributes", {"tokens": scorer.tokens}, ["tokens"]),
    ):
        if not isinstance(got, Mapping) or not all(is_number(got.get(key)) for key in needed):
            raise ConfigError(
                f"{name}: {method} must have the numbers {', '.join(needed)}; got {shown(got)}"
            )


def check_networks(space: SearchSpace[Any], *, trained: bool, timed: bool) -> None:
    """Raise ConfigError if flashnas has to train or to time networks of the space, and cannot."""
    network = space.any_network()
    for name in ("notation", "hash", "to_dict"):
        if not hasattr(network, name):
            raise ConfigError(
                f"space {space.name!r}: its networks need {name!r}; got {type(network).__name__}"
            )
    if isinstance(network, Architecture):
        return
    own = f"space {space.name!r} builds {type(network).__name__} objects, which"
    if trained:
        raise ConfigError(f"{own} flashnas cannot train; give an evaluator")
    if timed:
        raise ConfigError(
            f"{own} a latency table cannot answer; give table=None or a function network -> latency_ms"
        )


def load_own_costs(
    config: SearchConfig, function: CostFunction | None, *, evaluated: bool
) -> Costs:
    """The costs by the user's function, or none. Raises ConfigError for what only a latency table
    can answer."""
    if config.times:
        raise ConfigError(
            f"search.times needs a latency table; got times {config.times} and table=None or a function"
        )
    if config.budget_holds != EXPECTED:
        config.wrong("budget_holds", "upper needs a latency table, which has intervals")
    if function is not None:
        return OwnCosts(function)
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
