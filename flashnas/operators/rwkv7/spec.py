"""RWKV7 time mixing (`r7`); arXiv 2503.14456, sized as fla's layer."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import RWKV7, gemm, pointwise, pre_norm
from flashnas.operators.spec import (
    OperatorSpec,
    Role,
    TensorSpec,
    linear,
    norm,
    scaled_dim,
    scaled_head_dim,
)

MIN_RANK = 8  # of a scaled-down low-rank map
MIXES = 6  # of a token with the one before it: one each for r, k, v, decay, rate and gate


@dataclass(frozen=True, kw_only=True)
class Rwkv7(OperatorSpec):
    """`r7`, in the form of the paper's first layer: an operator sees only its input, therefore its
    values are not mixed with those of an earlier layer. The channel mixing of the paper is left to
    the next operator, usually `f`.

    Ranks of the low-rank maps to decay, in-context learning rate and output gate: 0 follows from
    the hidden size.
    """

    kind = "r7"
    name = "rwkv7"
    label = "RWKV7"
    colour = "#882255"  # wine
    family = "delta rule"
    layer = "flashnas.operators.rwkv7.layer:Rwkv7Layer"
    minimums: ClassVar = {"head_dim": 2}

    head_dim: int = 64
    decay_rank: int = 0
    rate_rank: int = 0
    gate_rank: int = 0

    def heads(self, hidden: int) -> int:
        return self._divided(hidden, self.head_dim, "head_dim")

    def resolved(self, hidden: int) -> Self:
        self.heads(hidden)
        ranks = {
            name: getattr(self, name) or rank for name, rank in self._default_ranks(hidden).items()
        }
        return dataclasses.replace(self, **ranks)

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        # ranks that followed from the smaller width would be half of a small layer
        full = self.resolved(hidden)
        ranks = {
            name: scaled_dim(getattr(full, name), factor, MIN_RANK)
            for name in self._default_ranks(hidden)
        }
        head_dim = scaled_head_dim(self.head_dim, factor, least_dim, hidden // factor)
        return dataclasses.replace(self, head_dim=head_dim, **ranks)

    def _default_ranks(self, hidden: int) -> dict[str, int]:
        """By name of the field."""
        middle = _rank(2.5 * self.head_dim / 64, hidden)
        return {"decay_rank": middle, "rate_rank": middle, "gate_rank": _rank(5, hidden)}

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        s = self.resolved(hidden)
        yield TensorSpec("mix", (MIXES * hidden,), Role.VECTOR)
        yield from linear("in_proj", {"r": hidden, "k": hidden, "v": hidden}, hidden, Role.READS)
        ranks = {"decay_gate": s.decay_rank, "rate_gate": s.rate_rank, "output_gate": s.gate_rank}
        for name, rank in ranks.items():
            yield TensorSpec(f"{name}.down", (rank, hidden), Role.GATE)
            yield TensorSpec(f"{name}.up", (hidden, rank), Role.GATE)
            if name != "output_gate":
                yield TensorSpec(f"{name}.bias", (hidden,), Role.BIAS)
        for name in ("k_k", "k_a", "r_k"):
            yield TensorSpec(name, (hidden,), Role.VECTOR)
        yield norm("norm", hidden)
        yield TensorSpec("norm.bias", (hidden,), Role.BIAS)
        yield from linear("out_proj", hidden, hidden, Role.WRITES)

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        # and the last token's input
        return super().cache_bytes(hidden, context, dtype_bytes) + hidden * dtype_bytes

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        tensors = self.named_tensors(hidden)
        into = tensors["in_proj.weight"]
        gates = {"decay": "decay_gate", "rate": "rate_gate", "gate": "output_gate"}
        return (
            pre_norm(hidden),
            pointwise("token_shift", (2 + MIXES) * hidden),
            gemm("receptance", into, "r"),
            gemm("key", into, "k"),
            gemm("value", into, "v"),
            *(gemm(f"{name}_low", tensors[f"{gate}.down"]) for name, gate in gates.items()),
            *(gemm(f"{name}_high", tensors[f"{gate}.up"]) for name, gate in gates.items()),
            # k, rate -> kk, k, b
            pointwise("key_norm", 5 * hidden),
            RWKV7.call(
                self.name,
                heads=self.heads(hidden),
                key_dim=self.head_dim,
                value_dim=self.head_dim,
                groups=self.heads(hidden),
            ),
            pointwise("bonus_gate", 6 * hidden),  # o, r, k, v, gate -> o
            gemm("out", tensors["out_proj.weight"]),
        )


def _rank(factor: float, hidden: int) -> int:
    """factor sqrt(hidden) as the nearest multiple of 32, at least 32."""
    return max(32, round(factor * hidden**0.5 / 32) * 32)
