"""Mixture of experts (`moe`): each token passes the few that a router picks; arXiv 2101.03961,
2401.04088."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flashnas.base.errors import OperatorError
from flashnas.operators.kernel import KernelCall, Phase
from flashnas.operators.kernel_kinds import EXPERTS, gemm, pointwise, pre_norm
from flashnas.operators.spec import OperatorSpec, Role, TensorSpec, linear

MAX_EXPERTS = 4096  # each has tensors of its own


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(OperatorSpec):
    """`moe`. `active` of `experts` per token, chosen by a softmax over all; no token is dropped.
    Experts are SwiGLU networks.

    intermediate: of each expert; 0: 3 x hidden / active, rounded up, so that a token costs what it
    costs in `f`. shared: intermediate size of one more expert that every token passes; 0: none.
    shared_gate: its output times the sigmoid of a projection to one value, as in Qwen2-MoE.
    normalise: the chosen probabilities add up to 1; a single one stays as it is, as in the Switch
    Transformer, for a constant 1 would give the router no gradient.

    relu2: experts, the shared one too, are down(relu(up(x))^2), as in Nemotron-3-Nano. sigmoid: the
    probability of an expert is the sigmoid of its logit, and the choice is by that plus
    `router.bias`, which gets no gradient: training moves it (arXiv 2408.15664); as in DeepSeek-V3
    and LFM2-MoE. scale: a factor on the sum over the chosen experts.
    """

    kind = "moe"
    name = "mixture_of_experts"
    label = "mixture of experts"
    colour = "#B5A999"  # light brown
    family = "feed-forward"
    layer = "flashnas.operators.mixture_of_experts.layer:MixtureOfExpertsLayer"
    mixes_tokens = False
    hash_optional = frozenset({"relu2", "sigmoid", "scale"})

    experts: int = 8
    active: int = 2
    intermediate: int = 0
    shared: int = 0
    shared_gate: bool = False
    normalise: bool = True
    relu2: bool = False
    sigmoid: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts > MAX_EXPERTS:
            raise OperatorError(
                f"operator 'moe': experts must be at most {MAX_EXPERTS}; got {self.experts}"
            )
        if self.active > self.experts:
            raise OperatorError(
                f"operator 'moe': active must be at most experts {self.experts}; got {self.active}"
            )

    @property
    def gated(self) -> bool:
        """Whether a shared expert has a gate."""
        return self.shared_gate and self.shared > 0

    def resolved(self, hidden: int) -> Self:
        # a softmax over all experts adds up to 1 as it is
        whole = self.active == self.experts and not self.sigmoid
        normalise = self.active > 1 and (self.normalise or whole)
        return dataclasses.replace(
            self,
            intermediate=self.intermediate or self._default_intermediate(hidden),
            shared_gate=self.gated,
            normalise=normalise,
        )

    def _default_intermediate(self, hidden: int) -> int:
        return -(-3 * hidden // self.active)

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        inner = 0 if self.intermediate == self._default_intermediate(hidden) else self.intermediate
        inner, shared = (
            max(1, round(size / factor)) if size else 0 for size in (inner, self.shared)
        )
        return dataclasses.replace(self, intermediate=inner, shared=shared)

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        """The shared expert is the last one of both lists."""
        sizes = [self.resolved(hidden).intermediate] * self.experts
        sizes += [self.shared] if self.shared else []
        yield from linear("router", self.experts, hidden, Role.ROUTER, self.sigmoid)
        for n, size in enumerate(sizes):
            parts = {"up": size} if self.relu2 else {"gate": size, "up": size}
            yield from linear(f"in_proj.{n}", parts, hidden, Role.READS)
        for n, size in enumerate(sizes):
            yield from linear(f"out_proj.{n}", hidden, size, Role.WRITES)
        if self.gated:
            yield from linear("gate_proj", 1, hidden, Role.GATE)

    def active_params(self, hidden: int) -> int:
        idle, matrices = self.experts - self.active, 2 if self.relu2 else 3
        return self.params(hidden) - idle * matrices * hidden * self.resolved(hidden).intermediate

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        """The fused call chooses the experts and adds their outputs."""
        shared, matrices = self.shared, 2 if self.relu2 else 3
        tensors = self.named_tensors(hidden)
        always: list[KernelCall] = []
        if shared:
            into = tensors[f"in_proj.{self.experts}.weight"]
            always = [
                gemm("shared_gate_up", into),
                pointwise("activation", matrices * shared),
                gemm("shared_down", tensors[f"out_proj.{self.experts}.weight"]),
                pointwise("combine", 3 * hidden),
            ]
        if self.gated:
            always.append(gemm("shared_gate", tensors["gate_proj.weight"]))
        return (
            pre_norm(hidden),
            gemm("router", tensors["router.weight"]),
            EXPERTS.call(
                "experts",
                hidden=hidden,
                inner=self.resolved(hidden).intermediate,
                experts=self.experts,
                active=self.active,
                matrices=matrices,
            ),
            *always,
        )
