"""DeltaNet with a short convolution (`d`), as fla's layer in Nemotron-Flash: no output gate; arXiv
2406.06484."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flashnas.operators.delta_layer import DeltaLayer
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.layer import Apply
from flashnas.operators.spec import OUTPUT_NORM_EPS


class DeltaNetLayer(DeltaLayer):
    """Without decay and gate."""

    core_kind, decays = "delta_rule", False

    def __init__(self, spec: DeltaNet, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")
        self._build(spec.name, OUTPUT_NORM_EPS)

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        return apply(self.in_proj, x).split([3 * self.v_heads * self.head_dim, self.v_heads], -1)
