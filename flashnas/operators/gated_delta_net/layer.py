"""Gated DeltaNet (`gd`) in the form of Qwen3-Next; arXiv 2412.06464."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from flashnas.operators.delta_layer import DeltaLayer
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.layer import Apply
from flashnas.operators.parts.norms import NORM_EPS
from flashnas.operators.parts.projection import Projection
from flashnas.operators.roles import Role


class GatedDeltaNetLayer(DeltaLayer):
    """A decay per value head; norm gated by silu(z)."""

    roles: ClassVar = {
        "in_proj": Role.READS,
        "A_log": Role.DECAY,
        "dt_bias": Role.BIAS,
        "out_proj": Role.WRITES,
    }
    core_kind, gate = "gated_delta_rule", "silu"

    def __init__(self, spec: GatedDeltaNet, hidden: int) -> None:
        super().__init__()
        key, value = spec.key_size(hidden), spec.value_size(hidden)
        k_heads, v_heads = spec.resolved(hidden).k_heads, spec.v_heads(hidden)
        self.sizes = [2 * key + value, value, v_heads, v_heads]
        self.in_proj = Projection(hidden, sum(self.sizes), bias=False)  # q, k, v | z | beta | a
        self._build(spec, hidden, (k_heads, v_heads), spec.head_dim, spec.conv_size, NORM_EPS)

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, z, beta, a = apply(self.in_proj, x).split(self.sizes, -1)
        return qkv, beta, a, z
