"""The layers of `d`, `gd` and `kda`: the delta rule between a convolution and a norm per head."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.backends.library import Pair
from flashnas.operators.layer import Apply, RecurrentLayer, Rule
from flashnas.operators.parts import (
    inverse_softplus_of_log_uniform,
    l2_norm,
    log_of_uniform,
)
from flashnas.operators.recurrences.delta_rule import delta_rule_chunked, delta_rule_step
from flashnas.operators.recurrences.dplr import kda_chunked, kda_step
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.operators.spec import OperatorSpec

GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


def delta_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    g: Tensor | None,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """The delta rule token by token, with a log decay per head [B, T, H] or channel [B, T, H, K]."""
    writes_BTHK = k_BTHK * beta_BTH.unsqueeze(-1)
    if g is not None and g.ndim == beta_BTH.ndim:
        g = g.unsqueeze(-1)
    return token_by_token(q_BTHK, writes_BTHK, v_BTHV, g, state_BHKV, -k_BTHK, writes_BTHK)


class DeltaLayer(RecurrentLayer):
    """q, k, v pass a convolution and silu; q and k are L2-normalised, beta = sigmoid. Value head h
    reads key head h // (v_heads / k_heads). Log decay -exp(A_log) softplus(a + dt_bias), where
    there is one. RMSNorm per head, times silu or sigmoid of a gate, where there is one.

    `project` returns q, k, v together, and beta; then a and the gate, where the rule decays.
    """

    core_kind: ClassVar[str]
    rules: ClassVar[Pair] = delta_rule_chunked, delta_rule_step
    by_channel: ClassVar[bool] = False  # a decay per key channel; all in the dtype of the state
    gate: ClassVar[str] = ""  # of GATES

    def __init__(self, spec: OperatorSpec, hidden: int) -> None:
        super().__init__(spec, hidden)
        q, k, v, *others = self.tensor("in_proj.weight").rows()
        (head_dim,) = self.shape("norm.weight")
        self.sizes = [q + k + v, *others]
        self.head_dim = head_dim
        self.k_heads = k // head_dim
        self.v_heads = v // head_dim
        self.scale = head_dim**-0.5
        self.decays = "A_log" in self.tensors
        self.in_proj = self.linear("in_proj")
        self.build_gates()
        self.conv = self.convolution()
        if self.decays:
            self.A_log = nn.Parameter(log_of_uniform(self.v_heads))
            self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(*self.shape("dt_bias")))
        self.norm = self.norm_of("norm")
        self.out_proj = self.linear("out_proj")
        self.core = Core(
            self.core_kind, spec.name, self.rules, key_dim=head_dim, value_dim=head_dim
        )
        self.plain = delta_reference
        self.state_sizes = self.v_heads, head_dim, head_dim

    def build_gates(self) -> None:
        """Build projections beside `in_proj`."""

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
                steps = F.softplus(others[0].to(dtype) + self.dt_bias.to(dtype))
                if self.by_channel:
                    steps = steps.unflatten(-1, (self.v_heads, -1))
                    rates = rates.unsqueeze(-1)
                g = rates * steps
            o, matrix_BHKV = rule(
                q * self.scale, k, v, torch.sigmoid(beta.to(dtype)), g, matrix_BHKV
            )
            y = self.norm(o).flatten(-2)
            return y * GATES[self.gate](others[1].to(dtype)) if self.gate else y, matrix_BHKV


class DeltaNetLayer(DeltaLayer):
    """`d`, as fla's layer in Nemotron-Flash, without decay and output gate; arXiv 2406.06484."""

    core_kind = "delta_rule"

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        return apply(self.in_proj, x).split(self.sizes, -1)


class GatedDeltaNetLayer(DeltaLayer):
    """`gd`, in the form of Qwen3-Next: a decay per value head, norm gated by silu(z); arXiv
    2412.06464."""

    core_kind, gate = "gated_delta_rule", "silu"

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, z, beta, a = apply(self.in_proj, x).split(self.sizes, -1)
        return qkv, beta, a, z


class KimiDeltaAttentionLayer(DeltaLayer):
    """`kda`, as fla's layer: a decay per key channel, from a low-rank map; norm gated by the sigmoid
    of another one; arXiv 2510.26692."""

    core_kind = "kda"
    by_channel = True
    gate = "sigmoid"
    rules = kda_chunked, kda_step

    def build_gates(self) -> None:
        self.gates_low = self.linear("gates_low")  # decay | output gate
        self.decay_gate = self.linear("decay_gate")
        self.output_gate = self.linear("output_gate")

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        qkv, beta = apply(self.in_proj, x).split(self.sizes, -1)
        decay, gate = apply(self.gates_low, x).chunk(2, -1)
        return qkv, beta, apply(self.decay_gate, decay), apply(self.output_gate, gate)
