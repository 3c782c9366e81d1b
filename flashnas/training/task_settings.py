"""How long and how fast a network is trained on synthetic tasks. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean

MOST = {"steps": 10**9, "batch_tokens": 2**24, "test_sequences": 2**20}


@dataclass(frozen=True, kw_only=True)
class TaskTraining:
    """The section `tasks` of a recipe. Width, optimizer, start, schedule and dtype are those of the recipe.

    steps: optimizer steps of each network.
    batch_tokens: tokens of a batch, shared evenly by the tasks that are trained together.
    test_sequences: sequences of each task in its test set.
    muon_lr, adamw_lr: used in place of the recipe's rates; experiments/mad shows their effect.
    """

    steps: int = 200
    batch_tokens: int = 768
    test_sequences: int = 64
    muon_lr: float = 0.01
    adamw_lr: float = 0.02

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, whole = getattr(self, item.name), item.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ConfigError(f"recipe.tasks.{item.name} must be a {'whole ' if whole else ''}number;"
                                  f" got {value!r}")
            if not (value >= 1 if whole else 0 < value < math.inf):
                raise ConfigError(f"recipe.tasks.{item.name} must be {'at least 1' if whole else 'above 0'};"
                                  f" got {value!r}")
            if value > MOST.get(item.name, math.inf):
                raise ConfigError(f"recipe.tasks.{item.name} must be at most {MOST[item.name]:,}; got {value!r}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ConfigError naming an unknown key, a wrong type or value."""
        known = [item.name for item in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise ConfigError(f"recipe.tasks has no key {key!r}{did_you_mean(key, known)};"
                                  f" allowed: {', '.join(known)}")
        return cls(**data)
