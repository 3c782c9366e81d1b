"""What a user asks of networks: parameters, experts, budgets, recall, and programs that load them; checked
before anything is trained."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import MissingRowsError, SpaceError
from flashnas.base.text import names_text, range_of, tokens_text
from flashnas.families.family import families
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs, Fitter, Requirement, TableCosts
from flashnas.latency.memory import USABLE_SHARE
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.space.served import NO, ONLY, ServedSpace
from flashnas.study.config import WINDOW_RECALL, SearchConfig


def fitter_of(
    config: SearchConfig,
    space: SearchSpace[Any],
    costs: Costs,
    budgets: Sequence[Budget],
    note: Callable[[str], None],
) -> Fitter[Any]:
    """Fits widths to the budgets and to what else is asked, in the space without families that the
    table does not answer for, unless that is all. Raises MissingRowsError where it lacks others."""
    if isinstance(space, ServedSpace):
        space = limited(config, space)
    if isinstance(costs, TableCosts) and isinstance(space, OperatorSpace):
        if isinstance(space, ServedSpace):
            lacking = {}
            within = dict.fromkeys(genotype.family for genotype in space.genotypes)
            for name in within:
                try:
                    check_answerable(space.restricted(families=[name]), costs.model)
                except MissingRowsError as error:
                    lacking[name] = f"family {name} is left out: {error}"
            if left := [name for name in within if name not in lacking]:
                space = space.restricted(families=left) if lacking else space
                for line in lacking.values():
                    note(line)
        check_answerable(space, costs.model)
    return Fitter(space, costs, budgets, rules_of(config, space))


def check_answerable(space: OperatorSpace[Any], model: LatencyModel) -> None:
    """Raise MissingRowsError when the table lacks what the space needs."""
    try:
        model.columns(list(space.probes()), ("latency_ms",))
    except MissingRowsError as error:
        raise MissingRowsError(
            f"table {model.table.name!r} does not cover space {space.name!r}: {error}"
        ) from None


def floor_of(config: SearchConfig, space: SearchSpace[Any]) -> float | None:
    """The least recall of a network that publications rank: that is asked for; else WINDOW_RECALL where
    layers may have windows."""
    if config.min_recall is None and isinstance(space, ServedSpace):
        return WINDOW_RECALL if any(spec.window_tokens for spec in space.kinds()) else None
    return config.min_recall


def bounds_of(config: SearchConfig, costs: Costs) -> tuple[Budget, ...]:
    """The budgets, with the usable memory of the table's device where none is on memory."""
    if "memory_gb" in config.budgets or not isinstance(costs, TableCosts):
        return config.bounds
    usable = USABLE_SHARE * costs.model.table.device.memory_bytes / 1e9
    return (*config.bounds, Budget("memory_gb", usable)) if usable else config.bounds


def vocab_of(config: SearchConfig) -> int | None:
    """Words of the vocabulary that is asked for, or of the model of `as_good_as`; None: the space's."""
    if config.as_good_as and not config.vocab:
        return load_architecture(config.as_good_as).vocab
    return config.vocab


def limited(config: SearchConfig, space: ServedSpace) -> ServedSpace:
    """The networks of a space with the experts and parameters that are asked for, of families that all
    the programs load. Raises SettingError where there are none."""
    if not space.counting(config.experts):
        config.wrong("experts", f"{config.experts} has no network of space {space.name!r}")
    try:
        asked = None if config.params is None else range_of(config.params)
        space = space.restricted(asked, config.experts)
    except SpaceError:
        least, most = space.restricted((1, math.inf), config.experts).param_range
        config.wrong(
            "params",
            f"{config.params or '..'.join(map(tokens_text, space.params))} has no network of space"
            f" {space.name!r}; it has {tokens_text(least)} to {tokens_text(most)}",
        )
    wanted = set(config.runtime)
    by_family = {genotype.family: genotype for genotype in space.genotypes}
    able = [
        name
        for name, genotype in by_family.items()
        if wanted <= set(loading(space.architectures(genotype)[0]))
    ]
    if not able:
        config.wrong(
            "runtime",
            f"no network of space {space.name!r} loads in {names_text(config.runtime)};"
            f" {_families_for(config)}",
        )
    return space if len(able) == len(by_family) else space.restricted(families=able)


def rules_of(config: SearchConfig, space: SearchSpace[Any]) -> list[Requirement]:
    """That a network has the parameters and experts that are asked for, and that all programs that are
    asked for load it; none for a ServedSpace, which is limited already."""
    if isinstance(space, ServedSpace):
        return []
    wanted = set(config.runtime)
    least, most = (0.0, math.inf) if config.params is None else range_of(config.params)

    def off_params(networks: Sequence[Any]) -> np.ndarray:
        params = Networks.of(networks).params
        return np.maximum(least / params, params / most)

    def off_experts(networks: Sequence[Any]) -> np.ndarray:
        of = Networks.of(networks)
        return 1.0 + ((of.active_params < of.params) != (config.experts == ONLY))

    def off_runtime(networks: Sequence[Any]) -> np.ndarray:
        return np.array([1 + len(wanted - set(loading(network))) for network in networks])

    rules = []
    if config.params is not None:
        rules.append(Requirement(f"params {config.params}", off_params))
    if config.experts in (NO, ONLY):
        rules.append(Requirement(f"experts {config.experts}", off_experts))
    if wanted:
        words = f"runtime {names_text(config.runtime)} ({_families_for(config)})"
        rules.append(Requirement(words, off_runtime))
    if rules and not isinstance(space.any_network(), Architecture):
        name = rules[0].asked.partition(" ")[0]
        config.wrong(name, f"needs networks of flashnas' operators, unlike space {space.name!r}")
    return rules


def _families_for(config: SearchConfig) -> str:
    """Families that all programs load that are asked for, in words."""
    wanted = set(config.runtime)
    able = [name for name, family in families().items() if wanted <= set(family.programs)]
    return f"families that do: {', '.join(able) or 'none'}"
