"""Gated DeltaNet (`gd`) in the form of Qwen3-Next; arXiv 2412.06464."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flashnas.operators.delta_layer import DeltaLayer
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.layer import Apply


class GatedDeltaNetLayer(DeltaLayer):
    """A decay per value head; norm gated by silu(z)."""

    core_kind, gate = "gated_delta_rule", "silu"

    def __init__(self, spec: GatedDeltaNet, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")
        q, k, v, *others = self.tensors["in_proj.weight"].rows()
        self.sizes = [q + k + v, *others]
        self._build(spec.name)

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, z, beta, a = apply(self.in_proj, x).split(self.sizes, -1)
        return qkv, beta, a, z
