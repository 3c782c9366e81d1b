"""Kimi delta attention (`kda`), as fla's layer; arXiv 2510.26692."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flashnas.operators.delta_layer import DeltaLayer
from flashnas.operators.kimi_delta_attention.spec import KimiDeltaAttention
from flashnas.operators.layer import Apply
from flashnas.operators.recurrences.dplr import kda_chunked, kda_reference, kda_step
from flashnas.operators.spec import OUTPUT_NORM_EPS


class KimiDeltaAttentionLayer(DeltaLayer):
    """A decay per key channel, from a low-rank map; norm gated by the sigmoid of another one."""

    core_kind, by_channel, gate = "kda", True, "sigmoid"
    rules, rule_reference = (kda_chunked, kda_step), staticmethod(kda_reference)

    def __init__(self, spec: KimiDeltaAttention, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.in_proj = self.linear("in_proj")
        self.gates_low = self.linear("gates_low")
        self.decay_gate = self.linear("decay_gate")
        self.output_gate = self.linear("output_gate")
        self._build(spec.name, OUTPUT_NORM_EPS)

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, beta = apply(self.in_proj, x).split(
            [3 * self.v_heads * self.head_dim, self.v_heads], -1
        )
        decay, gate = apply(self.gates_low, x).chunk(2, -1)
        return qkv, beta, apply(self.decay_gate, decay), apply(self.output_gate, gate)
