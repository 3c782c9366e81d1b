"""What the networks of a search cost, and which of them are allowed; checked before anything is
trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.text import range_of, tokens_text
from flashnas.space import SearchSpace
from flashnas.study.config import SPACE_OF, SearchConfig

DRAWN = 256  # genotypes looked at before a program is said to run no network of a space


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
