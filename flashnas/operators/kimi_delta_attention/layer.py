"""Kimi delta attention (`kda`), as fla's layer; arXiv 2510.26692."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from flashnas.operators.delta_layer import DeltaLayer
from flashnas.operators.kimi_delta_attention.spec import KimiDeltaAttention
from flashnas.operators.layer import Apply
from flashnas.operators.recurrences.dplr import kda_chunked, kda_reference, kda_step
from flashnas.operators.roles import Role

NORM_EPS = 1e-5


class KimiDeltaAttentionLayer(DeltaLayer):
    """A decay per key channel, from a low-rank map; norm gated by the sigmoid of another one."""

    roles: ClassVar = {
        "in_proj": Role.READS,
        "gates_low": Role.GATE_READS,
        "decay_gate": Role.GATE,
        "output_gate": Role.GATE,
        "A_log": Role.DECAY,
        "dt_bias": Role.BIAS,
        "out_proj": Role.WRITES,
    }
    core_kind, by_channel, gate = "kda", True, "sigmoid"
    rules, rule_reference = (kda_chunked, kda_step), staticmethod(kda_reference)

    def __init__(self, spec: KimiDeltaAttention, hidden: int) -> None:
        super().__init__()
        spec, inner = spec.resolved(hidden), spec.inner(hidden)
        self.in_proj = nn.Linear(hidden, 3 * inner + spec.heads, bias=False)  # q, k, v | beta
        self.gates_low = nn.Linear(hidden, 2 * spec.gate_rank, bias=False)  # decay | output gate
        self.decay_gate = nn.Linear(spec.gate_rank, inner, bias=False)
        self.output_gate = nn.Linear(spec.gate_rank, inner)
        self._build(spec, hidden, (spec.heads, spec.heads), spec.head_dim, spec.conv_size, NORM_EPS)

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, beta = apply(self.in_proj, x).split(
            [3 * self.v_heads * self.head_dim, self.v_heads], -1
        )
        decay, gate = apply(self.gates_low, x).chunk(2, -1)
        return qkv, beta, apply(self.decay_gate, decay), apply(self.output_gate, gate)
