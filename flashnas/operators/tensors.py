"""The parameters of an operator, stated once and without torch: name, shape, role and parts.

Parameter counts, products, layers, optimizers, exports and readers of weights follow from what
`OperatorSpec.tensors` returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Role(Enum):
    """What a parameter is for; weight decay, weight norm, learning rates and the start read it."""

    READS = "a matrix that reads the residual stream, [.., features, hidden]"
    WRITES = "a matrix that writes into the residual stream, [.., hidden, features]"
    INNER = "a matrix between features of the operator"
    GATE = "a matrix that makes a gate, decay or rate of a few features; its size is part of what it computes"
    GATE_READS = "a matrix that makes the few features behind a gate of the residual stream"
    ROUTER = "a matrix that scores experts"
    FILTER = "taps [.., taps] of a short convolution, the last for the current token, or its bias [channels]"
    DECAY = "decay rates of a recurrence"
    NORM = "the weight of a norm"
    BIAS = "an offset"
    VECTOR = "one factor per channel or head"
    TOKENS = "one vector per token: embedding, head, meta tokens"


# roles that learn at a rate of their own, `m2.conv`
OWN_RATES = {Role.FILTER: "conv", Role.ROUTER: "router"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter of a layer.

    Args:
        name: in the state dict of the layer, such as `in_proj.weight`.
        shape: as torch stores it; of a matrix [outputs, inputs].
        role: what it is for.
        parts: names and numbers of consecutive rows that have a meaning of their own, such as q, k
            and v; many file formats have a tensor for each. Empty: the tensor is one part.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it is the weight of a product, which a file may keep in a type of few bits."""
        return len(self.shape) > 1 and self.role not in (Role.FILTER, Role.DECAY)

    def rows(self, *parts: str) -> tuple[int, ...]:
        """The rows of these parts; without names those of all parts."""
        sizes = dict(self.parts)
        return tuple(sizes[part] for part in parts or sizes)

    def inside(self, module: str) -> TensorSpec:
        """The same parameter as one of a layer that holds its layer under this name."""
        return replace(self, name=f"{module}.{self.name}")


def linear(
    name: str, rows: int | Mapping[str, int], columns: int, role: Role, bias: bool = False
) -> tuple[TensorSpec, ...]:
    """The weight of a projection, and its bias.

    Args:
        name: of the module.
        rows: outputs, or name -> outputs for each part of them.
        columns: inputs.
        role: of the weight.
    """
    parts = () if isinstance(rows, int) else tuple(rows.items())
    count = rows if isinstance(rows, int) else sum(rows.values())
    weight = TensorSpec(f"{name}.weight", (count, columns), role, parts)
    return (weight, TensorSpec(f"{name}.bias", (count,), Role.BIAS, parts)) if bias else (weight,)


def convolution(channels: int, taps: int, bias: bool = False) -> tuple[TensorSpec, ...]:
    """The taps of the module `conv`, and its bias."""
    weight = TensorSpec("conv.weight", (channels, taps), Role.FILTER)
    return (weight, TensorSpec("conv.bias", (channels,), Role.FILTER)) if bias else (weight,)


def norm(name: str, size: int) -> TensorSpec:
    """The weight of a norm over the last dimension."""
    return TensorSpec(f"{name}.weight", (size,), Role.NORM)
