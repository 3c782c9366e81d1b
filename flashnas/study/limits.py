"""What a user asks of networks: parameters, layers, and programs that load them; checked before
anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import SpaceError
from flashnas.base.text import names_text, range_of, tokens_text
from flashnas.families.family import families
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs, TableCosts
from flashnas.latency.largest_batch import USABLE_SHARE
from flashnas.latency.metrics import Budget
from flashnas.space import SearchSpace
from flashnas.space.served import ServedSpace
from flashnas.study.config import SearchConfig

DRAWN = 256  # genotypes looked at before a space is said to have no network of what is asked


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
    """The networks of a space with the parameters that are asked for, of families that all the
    programs load. Raises SettingError where there are none."""
    if config.params is not None:
        try:
            space = space.with_params(range_of(config.params))
        except SpaceError:
            least, most = space.with_params((0, math.inf)).param_range
            config.wrong(
                "params",
                f"{config.params} has no network of space {space.name!r}; it has"
                f" {tokens_text(least)} to {tokens_text(most)}",
            )
    wanted = set(config.runtime)
    by_family = {genotype.family: genotype for genotype in space.genotypes}
    able = [
        name
        for name, genotype in by_family.items()
        if wanted <= set(loading(space.architectures(genotype)[0]))
    ]
    if not able:
        _unable(config, space)
    return space if len(able) == len(by_family) else space.with_families(able)


def network_holds(config: SearchConfig, space: SearchSpace[Any]) -> Callable[[Any], bool]:
    """Network -> whether it has the parameters and layers that are asked for, and all programs that
    are asked for load it. Raises SettingError, with the rule that is broken, if none of DRAWN
    networks of the space does."""
    rules: dict[str, Callable[[Any], bool]] = {}
    bare = not isinstance(space, ServedSpace)  # which is limited already
    if bare and config.params is not None:
        least, most = range_of(config.params)
        rules["params"] = lambda network: least <= network.active_params <= most
    if (layers := config.min_layers) is not None:
        rules["min_layers"] = lambda network: _layers_of(network) >= layers
    if bare and (wanted := set(config.runtime)):
        rules["runtime"] = lambda network: wanted <= set(loading(network))
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
            _unable(config, space)
        counts = [network.active_params for network in drawn]
        have = f"{tokens_text(min(counts))} to {tokens_text(max(counts))}"
        if name == "min_layers":
            have = f"at most {max(map(_layers_of, drawn))} token mixers"
        config.wrong(
            name,
            f"{getattr(config, name)} has no network of space {space.name!r}; those drawn have"
            f" {have}",
        )
    return lambda network: all(rule(network) for rule in rules.values())


def _unable(config: SearchConfig, space: SearchSpace[Any]) -> None:
    wanted = set(config.runtime)
    able = [name for name, family in families().items() if wanted <= set(family.programs)]
    config.wrong(
        "runtime",
        f"no network of space {space.name!r} loads in {names_text(config.runtime)};"
        f" families that do: {', '.join(able) or 'none'}",
    )


def _layers_of(network: Architecture) -> int:
    """The token mixers of a network."""
    return sum(spec.mixes_tokens for spec in network.operators)
