"""What each parameter of a layer is for. Layers declare it; optimizer, weight decay, weight norm
and start read it.

A module states the roles of its own parameters and of plain torch modules inside it by name:

    class GatedLinearAttentionLayer(Layer):
        roles: ClassVar = {"in_proj": Role.READS, "gate_proj": Role.GATE, "out_proj": Role.WRITES}

Modules inside that declare roles themselves (norms, short convolutions, other layers) are not
named. The bias of a plain torch module is a `BIAS`. A parameter without a role is an error when a
network with that layer is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import ClassVar

from torch import nn

from flashnas.base.errors import OperatorError


class Role(Enum):
    """The role of one parameter; stacks of matrices, one per expert or head, have the role of each
    of them.
    """

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


OWN_RATES = {
    Role.FILTER: "conv",
    Role.ROUTER: "router",
}  # roles that learn at a rate of their own, `m2.conv`


class Declared(nn.Module):
    """A module that declares the roles of its parameters."""

    roles: ClassVar[Mapping[str, Role]] = {}  # of parameters and plain torch modules, by name

    def parameter_roles(self) -> dict[str, Role]:
        """The role of every parameter, by the names of `named_parameters()`.

        Raises OperatorError naming a parameter without a role.
        """
        return dict(self._declared())

    def _declared(self) -> Iterator[tuple[str, Role]]:
        for name, _ in self.named_parameters(recurse=False):
            yield name, self._role(name, name)
        for child_name, child in self.named_children():
            for name, role in _roles_inside(child):
                yield f"{child_name}.{name}", role or self._role(child_name, f"{child_name}.{name}")

    def _role(self, declared: str, name: str) -> Role:
        if declared not in self.roles:
            raise OperatorError(
                f"{type(self).__name__} does not declare the role of its parameter {name!r}:"
                f" add {declared!r} to {type(self).__name__}.roles"
            )
        return self.roles[declared]


def _roles_inside(module: nn.Module) -> Iterator[tuple[str, Role | None]]:
    """Names and roles inside a module; None where the module around it declares the role."""
    if isinstance(module, Declared):
        yield from module.parameter_roles().items()
        return
    for name, _ in module.named_parameters(recurse=False):
        yield name, Role.BIAS if name == "bias" else None
    for child_name, child in module.named_children():
        for name, role in _roles_inside(child):
            yield f"{child_name}.{name}", role
