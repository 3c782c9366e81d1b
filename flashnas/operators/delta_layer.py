"""What the layers of `d`, `gd` and `kda` share: the delta rule between a convolution and a norm per
head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.backends.library import Pair
from flashnas.operators.layer import RecurrentLayer, Rule
from flashnas.operators.parts.norms import NORM_EPS, RMSNorm, l2_norm, l2_normalise
from flashnas.operators.parts.numerics import inverse_softplus_of_log_uniform, log_of_uniform
from flashnas.operators.recurrences.delta_rule import (
    delta_rule_chunked,
    delta_rule_reference,
    delta_rule_step,
)

GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


class DeltaLayer(RecurrentLayer):
    """q, k, v pass a convolution and silu; q and k are L2-normalised, beta = sigmoid. Value head h
    reads key head h // (v_heads / k_heads). Log decay -exp(A_log) softplus(a + dt_bias), where
    there is one. RMSNorm per head, times silu or sigmoid of a gate, where there is one.

    `project` returns q, k, v together, and beta; then a and the gate, where the rule decays.
    """

    k_heads: int
    v_heads: int
    head_dim: int
    scale: float
    norm: RMSNorm
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    core_kind: ClassVar[str]
    rules: ClassVar[Pair] = delta_rule_chunked, delta_rule_step
    rule_reference: ClassVar[Rule] = staticmethod(delta_rule_reference)
    decays: ClassVar[bool] = True
    by_channel: ClassVar[bool] = (
        False  # a decay for each key channel, and all in the dtype of the state
    )
    gate: ClassVar[str] = ""  # of GATES

    def _build(self, name: str, eps: float = NORM_EPS) -> None:
        """All behind the projections; eps: of the norm."""
        (head_dim,) = self.shape("norm.weight")
        self.head_dim = head_dim
        key, value = self.tensors["in_proj.weight"].rows("k", "v")
        self.k_heads, self.v_heads, self.scale = key // head_dim, value // head_dim, head_dim**-0.5
        self.conv = self.convolution()
        if self.decays:
            self.A_log = nn.Parameter(log_of_uniform(self.v_heads))
            (decays,) = self.shape("dt_bias")
            self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(decays))
        self.norm = self.norm_of("norm", eps)
        self.out_proj = self.linear("out_proj")
        self.core = Core(self.core_kind, name, self.rules, key_dim=head_dim, value_dim=head_dim)
        self.state_sizes = self.v_heads, head_dim, head_dim

    def recur(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        qkv, beta, *others = parts
        with torch.autocast(qkv.device.type, enabled=False):
            dtype = matrix_BHKV.dtype
            heads = (qkv.to(dtype) if self.by_channel else qkv).unflatten(-1, (-1, self.head_dim))
            qk, v = heads.split([2 * self.k_heads, self.v_heads], -2)
            q, k = l2_norm(qk).chunk(2, -2)
            if self.v_heads != self.k_heads:
                q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
            g = None
            if self.decays:
                rates = -self.A_log.to(dtype).exp()
                g = self._decay(rates, F.softplus(others[0].to(dtype) + self.dt_bias.to(dtype)))
            o, matrix_BHKV = rule(
                q * self.scale, k, v, torch.sigmoid(beta.to(dtype)), g, matrix_BHKV
            )
            y = self.norm(o).flatten(-2)
            return y * GATES[self.gate](others[1].to(dtype)) if self.gate else y, matrix_BHKV

    def recur_reference(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor
    ) -> tuple[Tensor, Tensor]:
        qkv, beta, *others = parts
        heads = [self.k_heads, self.k_heads, self.v_heads]
        q, k, v = qkv.unflatten(-1, (-1, self.head_dim)).split(heads, -2)
        q, k = (part.repeat_interleave(self.v_heads // self.k_heads, -2) for part in (q, k))
        g = None
        if self.decays:
            steps = torch.log1p((others[0] + self.dt_bias.double()).exp())
            g = self._decay(-self.A_log.double().exp(), steps)
        o, matrix_BHKV = self.rule_reference(
            l2_normalise(q) * self.scale, l2_normalise(k), v, torch.sigmoid(beta), g, matrix_BHKV
        )
        o = self.norm.reference(o).flatten(-2)
        return o * GATES[self.gate](others[1]) if self.gate else o, matrix_BHKV

    def _decay(self, rates_H: Tensor, steps: Tensor) -> Tensor:
        """Log decays [.., H], or [.., H, K]."""
        if not self.by_channel:
            return rates_H * steps
        return rates_H.unsqueeze(-1) * steps.unflatten(-1, (self.v_heads, -1))
