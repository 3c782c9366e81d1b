"""The search space of GPT-2 style models: width, layers, heads and the ratio of the feed-forward
network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from flashnas.base.documents import LocatedDict
from flashnas.base.errors import SpaceError
from flashnas.space import SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

AXES = ("width", "layers", "heads", "mlp_ratio")


@dataclass(frozen=True)
class Gpt2:
    """One model; flashnas needs `notation`, `hash` and `to_dict` of it. vocab: tokens. context:
    most tokens.
    """

    width: int
    layers: int
    heads: int
    mlp_ratio: int
    vocab: int = 64
    context: int = 64

    @property
    def notation(self) -> str:
        return f"gpt2 {self.layers}x(width {self.width}, {self.heads} heads, mlp {self.mlp_ratio})"

    @property
    def hash(self) -> str:
        return "gpt2-" + "-".join(str(value) for value in dataclasses.astuple(self))

    @property
    def params(self) -> int:
        """Parameters with biases and norms, the head tied to the embedding, as in GPT-2."""
        d, r = self.width, self.mlp_ratio
        block = (4 + 2 * r) * d * d + (4 + r + 1) * d + 4 * d  # matrices, their biases, two norms
        return (self.vocab + self.context) * d + self.layers * block + 2 * d

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Gpt2Space(SearchSpace[Gpt2]):
    """All combinations of the given values in which the heads divide the width; the genotype is the
    model itself.

    Args:
        axes: values of width, layers, heads and mlp_ratio, each in ascending order.
    """

    template: ClassVar[str] = "gpt2"

    def __init__(
        self, axes: Mapping[str, Sequence[int]], *, name: str = "gpt2", path: str = ""
    ) -> None:
        self.axes = {axis: tuple(axes[axis]) for axis in AXES}
        self.name, self.path = name, path
        if any(width % heads for width in self.axes["width"] for heads in self.axes["heads"]):
            raise SpaceError(
                f"space {name}: each of the heads {self.axes['heads']} must divide each width"
                f" {self.axes['width']}"
            )

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """The space of a YAML file with one list for each axis."""
        for axis in AXES:
            values = data.get(axis)
            whole = isinstance(values, list) and all(
                type(value) is int and value > 0 for value in values
            )
            if not values or not whole:
                raise SpaceError(
                    f"{data.place(axis) if axis in data else data.place()}: {axis} must be a list"
                    " of whole"
                    f" numbers; got {values!r}"
                )
        return cls(data, name=name)

    def sample(self, rng: np.random.Generator) -> Gpt2:
        return Gpt2(**{axis: int(rng.choice(values)) for axis, values in self.axes.items()})

    def mutate(self, genotype: Gpt2, rng: np.random.Generator) -> Gpt2:
        free = [axis for axis in AXES if len(self.axes[axis]) > 1]
        if not free:
            raise SpaceError(f"space {self.name}: one model cannot be mutated")
        axis = free[int(rng.integers(len(free)))]
        others = [value for value in self.axes[axis] if value != getattr(genotype, axis)]
        return dataclasses.replace(genotype, **{axis: int(rng.choice(others))})

    def encode(self, genotype: Gpt2) -> dict[str, int | float | str]:
        return {axis: getattr(genotype, axis) for axis in AXES}

    def decode(self, params: Mapping[str, Any]) -> Gpt2:
        return Gpt2(**{axis: int(params[axis]) for axis in AXES})

    def distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution

        return {axis: CategoricalDistribution(values) for axis, values in self.axes.items()}

    def architectures(self, genotype: Gpt2) -> Sequence[Gpt2]:
        return (genotype,)

    def baselines(self) -> Sequence[tuple[str, Sequence[Gpt2]]]:
        """The shape of GPT-2 itself: heads of width / heads channels and an MLP ratio of 4, at full
        depth.
        """
        shape = {**{axis: values[-1] for axis, values in self.axes.items()}, "mlp_ratio": 4}
        if 4 not in self.axes["mlp_ratio"]:
            return []
        return [
            (
                "GPT-2 shape",
                [Gpt2(**{**shape, "width": width}) for width in reversed(self.axes["width"])],
            )
        ]
