"""What a user asks of networks: parameters, and programs that load them; checked before
anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import SpaceError
from flashnas.base.text import names_text, range_of, tokens_text
from flashnas.families.family import families
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs, Requirement, TableCosts
from flashnas.latency.memory import USABLE_SHARE
from flashnas.latency.metrics import Budget
from flashnas.space import SearchSpace
from flashnas.space.served import NO, ONLY, ServedSpace
from flashnas.study.config import SearchConfig


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
    wanted, experts, rules = set(config.runtime), config.experts, list[Requirement]()
    if isinstance(space, ServedSpace):
        return rules
    if config.params is not None:
        least, most = range_of(config.params)
        rules.append(
            Requirement(
                f"params {config.params}",
                lambda networks: np.maximum(
                    least / (params := Networks.of(networks).params), params / most
                ),
            )
        )
    if experts in (NO, ONLY):

        def missed(networks: Sequence[Any]) -> np.ndarray:
            of = Networks.of(networks)
            return 1.0 + ((of.active_params < of.params) != (experts == ONLY))

        rules.append(Requirement(f"experts {experts}", missed))
    if wanted:
        rules.append(
            Requirement(
                f"runtime {names_text(config.runtime)} ({_families_for(config)})",
                lambda networks: np.array(
                    [1 + len(wanted - set(loading(network))) for network in networks]
                ),
            )
        )
    if rules and not isinstance(space.any_network(), Architecture):
        config.wrong(
            next(name for name in ("params", "experts", "runtime") if getattr(config, name)),
            f"needs networks of flashnas' operators, unlike space {space.name!r}",
        )
    return rules


def _families_for(config: SearchConfig) -> str:
    """Families that all programs load that are asked for, in words."""
    wanted = set(config.runtime)
    able = [name for name, family in families().items() if wanted <= set(family.programs)]
    return f"families that do: {', '.join(able) or 'none'}"
