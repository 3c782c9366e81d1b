"""Mamba2 (`m2`), the state-space dual layer, as transformers' Mamba2Mixer; arXiv 2405.21060.

Per head, with dt = softplus(dt_raw + dt_bias) and g = -exp(A_log) dt:
S <- exp(g) S + B (dt x)^T;  y = S^T C + D x.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.layer import Apply, RecurrentLayer, Rule
from flashnas.operators.mamba2.spec import Mamba2
from flashnas.operators.parts import inverse_softplus_of_log_uniform, log_of_uniform, rms_norm
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.operators.recurrences.ssd import ssd_scan, ssd_scan_step


def ssd_reference(
    q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd_scan` token by token."""
    repeats = x_BTHV.shape[2] // k_BTGK.shape[2]
    q_BTHK, k_BTHK = (part.repeat_interleave(repeats, 2) for part in (q_BTGK, k_BTGK))
    v_BTHV, g_BTH1 = x_BTHV * dt_BTH.unsqueeze(-1), (-dt_BTH * rate_H).unsqueeze(-1)
    return token_by_token(q_BTHK, k_BTHK, v_BTHV, g_BTH1, state)


class Mamba2Layer(RecurrentLayer):
    """in_proj gives z, x, B, C, dt; x, B, C pass a convolution and silu; y is normalised after the
    gate.
    """

    def __init__(self, spec: Mamba2, hidden: int) -> None:
        super().__init__(spec, hidden)
        z, *self.parts, self.heads = self.tensor("in_proj.weight").rows()  # parts: x, B, C
        self.sizes = [z, sum(self.parts), self.heads]
        self.groups = spec.groups
        self.dt_min = spec.dt_min
        self.in_proj = self.linear("in_proj")
        self.conv = self.convolution()
        self.A_log = nn.Parameter(log_of_uniform(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(self.heads))
        self.norm = self.norm_of("norm")
        self.out_proj = self.linear("out_proj")
        self.core = Core(
            "ssd", spec.name, (ssd_scan, ssd_scan_step), key_dim=spec.state, value_dim=spec.head_dim
        )
        self.plain = ssd_reference
        self.state_sizes = self.heads, spec.state, spec.head_dim

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        z, xbc, dt = apply(self.in_proj, x).split(self.sizes, -1)
        return xbc, z, dt

    def recur(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        xbc, z, dt = parts
        with torch.autocast(xbc.device.type, enabled=False):
            dtype = matrix_BHKV.dtype
            x, b, c = self._split(xbc)
            dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
            if self.dt_min:
                dt = dt.clamp(min=self.dt_min)
            y, matrix_BHKV = rule(c, b, x, dt, self.A_log.to(dtype).exp(), matrix_BHKV)
            y = torch.addcmul(y, x, self.D.to(dtype).unsqueeze(-1)).flatten(-2)
            gated = (y * F.silu(z.to(dtype))).unflatten(-1, (self.groups, -1))
            normed = rms_norm(gated, None, self.norm.eps).flatten(-2) * self.norm.weight.to(dtype)
            return normed, matrix_BHKV

    def _split(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [.., H, V], B and C [.., G, K] of the channels that the convolution gave."""
        x, b, c = xbc.split(self.parts, -1)
        b, c = (part.unflatten(-1, (self.groups, -1)) for part in (b, c))
        return x.unflatten(-1, (self.heads, -1)), b, c
