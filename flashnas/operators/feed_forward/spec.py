"""SwiGLU feed-forward network (`f`); with relu2 that of Nemotron-H: no gate, relu squared."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, linear


@dataclass(frozen=True, kw_only=True)
class FeedForward(OperatorSpec):
    """`f`. intermediate 0: three times the hidden size, as in Nemotron-Flash. bias: of every
    projection.

    relu2: down(relu(up(x))^2) in place of down(silu(gate(x)) * up(x)).
    """

    kind = "f"
    name = "feed_forward"
    label = "feed-forward"
    colour = "#C3C8CE"  # light grey: the mixers matter more
    family = "feed-forward"
    layer = "flashnas.operators.feed_forward.layer:FeedForwardLayer"
    mixes_tokens = False
    hash_optional = frozenset({"bias", "relu2"})

    intermediate: int = 0
    bias: bool = False
    relu2: bool = False

    def resolved(self, hidden: int) -> Self:
        return dataclasses.replace(self, intermediate=self.intermediate or 3 * hidden)

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        return dataclasses.replace(
            self, intermediate=max(1, round(self.intermediate / factor)) if self.intermediate else 0
        )

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        inner = self.resolved(hidden).intermediate
        parts = {"up": inner} if self.relu2 else {"gate": inner, "up": inner}
        yield from linear("in_proj", parts, hidden, Role.READS, self.bias)
        yield from linear("out_proj", hidden, inner, Role.WRITES, self.bias)

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        out = tensors["out_proj.weight"]
        inner = out.shape[1]
        if self.relu2:
            widen = gemm("up", into)
            activation = pointwise("relu2", 2 * inner)
        else:
            widen = gemm("gate_up", into)
            activation = pointwise("silu_mul", 3 * inner)
        return pre_norm(hidden), widen, activation, gemm("down", out)
