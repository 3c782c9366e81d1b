"""Gated linear attention (`gla`), as fla's layer; arXiv 2312.06635."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.backends.core import Core
from flashnas.operators.gla.spec import GatedLinearAttention
from flashnas.operators.layer import Apply, RecurrentLayer, Rule
from flashnas.operators.recurrences.gla import gla_chunked, gla_step
from flashnas.operators.recurrences.reference import token_by_token

GATE_NORMALISER = 16.0


class GatedLinearAttentionLayer(RecurrentLayer):
    """Low-rank decay gate logsigmoid(.) / 16; output gate swish; RMSNorm per head."""

    def __init__(self, spec: GatedLinearAttention, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.heads = spec.heads(hidden)
        self.key_dim = spec.key_dim
        self.in_proj = self.linear("in_proj")
        self.gate_proj = self.linear("gate_proj")
        self.norm = self.norm_of("norm")
        self.out_proj = self.linear("out_proj")
        self.scale = self.key_dim**-0.5
        self.core = Core(
            "gla", spec.name, (gla_chunked, gla_step), key_dim=self.key_dim, value_dim=spec.head_dim
        )
        self.plain = token_by_token
        self.state_sizes = (self.heads, self.key_dim, spec.head_dim)
        self.conv = None

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        sizes = self.tensor("in_proj.weight").rows()
        q, k, v, gate, low = apply(self.in_proj, x).split(sizes, -1)
        return q, k, v, gate, apply(self.gate_proj, low)

    def recur(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        *qkv, gate, decay = parts
        dtype = matrix_BHKV.dtype
        with torch.autocast(gate.device.type, enabled=False):
            q, k, v, g = (part.to(dtype).unflatten(-1, (self.heads, -1)) for part in (*qkv, decay))
            o, matrix_BHKV = rule(
                q * self.scale, k, v, F.logsigmoid(g) / GATE_NORMALISER, matrix_BHKV
            )
            return self.norm(o).flatten(-2) * F.silu(gate.to(dtype)), matrix_BHKV
