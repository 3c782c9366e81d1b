"""The free layer-wise template: each of L layers picks from a list; L may be a range.

A choice is a few operators in notation (`d f`, `m2`). `require` lists kinds of operators that each
network has, for a program that does not take a network without them.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import SpaceError
from flashnas.operators import OperatorSpec
from flashnas.space.base import Value
from flashnas.space.load import (
    read_choices,
    read_list,
    read_operators,
    read_range,
    read_shared,
)
from flashnas.space.operator_space import OperatorSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, kw_only=True)
class LayerwiseFile:
    """What a file of this template holds."""

    template: str
    widths: list[int]
    layers: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayersBlock:
    """The block `layers` of such a file."""

    depth: int | list[Any]
    choices: list[str]
    require: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LayerwiseGenotype:
    """One choice per layer, written as in the space's file."""

    layers: tuple[str, ...]

    def __str__(self) -> str:
        return " | ".join(self.layers)


class LayerwiseSpace(OperatorSpace[LayerwiseGenotype]):
    """Genotypes are one choice for each layer. choices: the operators of a layer by their notation.
    depth: (fewest, most) layers. require: kinds of operators of which each network has at least
    one."""

    template = "layerwise"

    def __init__(
        self,
        *,
        choices: dict[str, tuple[OperatorSpec, ...]],
        depth: tuple[int, int],
        require: tuple[str, ...] = (),
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.choices = choices
        self.depth = depth
        self.require = require
        self.names = tuple(choices)
        self.max_operators = depth[1] * max(map(len, choices.values()))
        self._specs = tuple(dict.fromkeys(spec for choice in choices.values() for spec in choice))
        self._kinds_of = {  # layer -> the required kinds that it has
            layer: {spec.kind for spec in choice} & {*require} for layer, choice in choices.items()
        }

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """Raises SpaceError with file, line, rule and value."""
        convert(data, LayerwiseFile, error=SpaceError, name="search space", closed=True)
        layers = data["layers"]
        convert(layers, LayersBlock, error=SpaceError, name="layers", closed=True)
        depth = read_range(layers, "depth", "layers")
        choices = read_list(layers, "choices", "layers", read_operators)
        specs = list(dict.fromkeys(spec for choice in choices for spec in choice))
        if not any(spec.mixes_tokens for spec in specs):
            raise SpaceError(f"{layers.place('choices')}: layers.choices needs a token mixer")
        require: tuple[str, ...] = ()
        if "require" in layers:
            require = read_choices(layers, "require", "layers", [spec.kind for spec in specs])
        if len(require) > depth[0]:
            raise SpaceError(
                f"{layers.place('require')}: layers.require must have at most as many entries as the"
                f" fewest layers, {depth[0]}; got {len(require)}"
            )
        return cls(
            choices={" ".join(map(str, choice)): choice for choice in choices},
            depth=depth,
            require=require,
            **read_shared(data, name, specs),
        )

    def kinds(self) -> tuple[OperatorSpec, ...]:
        return self._specs

    def own_settings(self) -> dict[str, Any]:
        required = {"require": list(self.require)} if self.require else {}
        return {"layers": {"depth": list(self.depth), "choices": list(self.names), **required}}

    # -- genotype <-> operators

    def operators(self, genotype: LayerwiseGenotype) -> tuple[OperatorSpec, ...]:
        return tuple(spec for layer in genotype.layers for spec in self.choices[layer])

    def _has_required(self, operators: Sequence[OperatorSpec]) -> bool:
        return set(self.require) <= {spec.kind for spec in operators}

    def pure_models(self) -> list[tuple[str, tuple[OperatorSpec, ...]]]:
        """As `OperatorSpace.pure_models`, without those that lack a required operator."""
        return [
            (label, operators)
            for label, operators in super().pure_models()
            if self._has_required(operators)
        ]

    def find(self, operators: Sequence[OperatorSpec]) -> LayerwiseGenotype | None:
        """Of all genotypes that build the list, the one with the fewest layers, then with the first
        choices."""
        operators = tuple(operators)
        if not self._has_required(operators):
            return None

        @functools.cache
        def layers_from(start: int, layers: int) -> tuple[str, ...] | None:
            if layers == 0 or start >= len(operators):
                return () if layers == 0 and start == len(operators) else None
            for name, choice in self.choices.items():
                if operators[start : start + len(choice)] == choice:
                    rest = layers_from(start + len(choice), layers - 1)
                    if rest is not None:
                        return (name, *rest)
            return None

        for layers in range(self.depth[0], self.depth[1] + 1):
            parts = layers_from(0, layers)
            if parts is not None:
                return LayerwiseGenotype(parts)
        return None

    def repair(self, genotype: LayerwiseGenotype) -> LayerwiseGenotype:
        """Drop surplus layers, repeat the last one if there are too few, put required operators in
        the place of the last ones."""
        layers = genotype.layers[: self.depth[1]] or self.names[:1]
        layers += layers[-1:] * (self.depth[0] - len(layers))
        layers = self._complete(list(layers))
        if self._uniquely_read:
            return LayerwiseGenotype(layers)
        repaired = self.find(self.operators(LayerwiseGenotype(layers)))
        assert repaired is not None, genotype
        return repaired

    def _complete(self, layers: list[str]) -> tuple[str, ...]:
        """A missing required kind takes the place of the last layer that can be missed."""
        for kind in self.require:
            counts = Counter(own for layer in layers for own in self._kinds_of[layer])
            if counts[kind]:
                continue
            last = max(
                i
                for i, layer in enumerate(layers)
                if all(counts[own] > 1 for own in self._kinds_of[layer])
            )
            layers[last] = next(name for name in self.names if kind in self._kinds_of[name])
        return tuple(layers)

    # -- drawing

    def sample(self, rng: np.random.Generator) -> LayerwiseGenotype:
        """Uniform depth, uniform choices."""
        layers = rng.integers(self.depth[0], self.depth[1] + 1)
        choices = rng.integers(len(self.names), size=layers)
        return self.repair(LayerwiseGenotype(tuple(self.names[i] for i in choices)))

    def mutate(self, genotype: LayerwiseGenotype, rng: np.random.Generator) -> LayerwiseGenotype:
        """Change one layer, swap two, add or drop one, drawn uniformly; the next kind where that
        gives no other list."""
        genotype = self.repair(genotype)
        kinds = (self._replaced, self._swapped, self._added, self._dropped)
        changes = (kinds[kind](genotype.layers) for kind in rng.permutation(len(kinds)))
        return self.first_other(
            genotype,
            (LayerwiseGenotype(lists[i]) for lists in changes for i in rng.permutation(len(lists))),
        )

    def _replaced(self, layers: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [
            (*layers[:i], name, *layers[i + 1 :])
            for i in range(len(layers))
            for name in self.names
            if name != layers[i]
        ]

    def _swapped(self, layers: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [
            (*layers[:i], layers[j], *layers[i + 1 : j], layers[i], *layers[j + 1 :])
            for i in range(len(layers))
            for j in range(i + 1, len(layers))
            if layers[i] != layers[j]
        ]

    def _added(self, layers: tuple[str, ...]) -> list[tuple[str, ...]]:
        if len(layers) == self.depth[1]:
            return []
        return [
            (*layers[:i], name, *layers[i:]) for i in range(len(layers) + 1) for name in self.names
        ]

    def _dropped(self, layers: tuple[str, ...]) -> list[tuple[str, ...]]:
        if len(layers) == self.depth[0]:
            return []
        return [(*layers[:i], *layers[i + 1 :]) for i in range(len(layers))]

    # -- Optuna

    def encode(self, genotype: LayerwiseGenotype) -> dict[str, Value]:
        """`depth` and `layer_00`, `layer_01`, ...; places beyond the depth hold the first
        choice.
        """
        padded = genotype.layers + self.names[:1] * (self.depth[1] - len(genotype.layers))
        layers: dict[str, Value] = {f"layer_{i:02d}": layer for i, layer in enumerate(padded)}
        return {"depth": len(genotype.layers), **layers}

    def decode(self, params: Mapping[str, Any]) -> LayerwiseGenotype:
        return self.repair(
            LayerwiseGenotype(tuple(params[f"layer_{i:02d}"] for i in range(params["depth"])))
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        layers = {
            f"layer_{i:02d}": CategoricalDistribution(self.names) for i in range(self.depth[1])
        }
        return {"depth": IntDistribution(*self.depth), **layers}

    # -- counting

    def size(self) -> int:
        """Of choices; where lists can be read in several ways, or lack a required operator, there are
        fewer."""
        return sum(len(self.names) ** n for n in range(self.depth[0], self.depth[1] + 1))

    @functools.cached_property
    def _uniquely_read(self) -> bool:
        """True if no choice is the beginning of another: then a list can be read in one way
        only.
        """
        choices = list(self.choices.values())
        return not any(a is not b and b[: len(a)] == a for a in choices for b in choices)

    def enumerate(self) -> Iterator[LayerwiseGenotype]:
        for depth in range(self.depth[0], self.depth[1] + 1):
            for layers in itertools.product(self.names, repeat=depth):
                genotype = LayerwiseGenotype(layers)
                if self.repair(genotype) == genotype:
                    yield genotype
