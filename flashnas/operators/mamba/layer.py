"""Mamba (`m`), the selective state space of the first version, as transformers' MambaMixer; arXiv 2312.00752.

Per channel c with state n, dt = softplus(dt_proj(low) + dt_bias) and A = -exp(A_log):
S <- exp(dt A) S + B dt x;  y = sum_n C S + D x;  the output is out_proj(y silu(z)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.layer import (
    Layer,
    RecurrentState,
    ShortConvolution,
    inverse_softplus_of_log_uniform,
    linear_reference,
    state_dtype,
)
from flashnas.operators.mamba.spec import Mamba
from flashnas.operators.recurrences.selective_scan import scan_of_inputs, scan_of_inputs_step, scan_reference
from flashnas.operators.roles import Role

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


class MambaLayer(Layer):
    """in_proj gives x and z; x passes a convolution and silu; x_proj makes the low-rank time step, B and C of it.

    The state's matrix is [B, 1, N, inner]: one head whose values are the channels.
    """

    roles: ClassVar = {"in_proj": Role.READS, "x_proj": Role.INNER, "dt_proj": Role.INNER, "dt_bias": Role.BIAS,
                       "A_log": Role.DECAY, "D": Role.VECTOR, "out_proj": Role.WRITES}

    def __init__(self, spec: Mamba, hidden: int) -> None:
        super().__init__()
        self.inner, self.state = spec.inner(hidden), spec.state
        rank = spec.resolved(hidden).dt_rank
        self.parts = [rank, self.state, self.state]
        self.in_proj = nn.Linear(hidden, 2 * self.inner, bias=spec.bias)  # x | z
        self.conv = ShortConvolution(self.inner, spec.conv_size, bias=spec.conv_bias)
        self.x_proj = nn.Linear(self.inner, sum(self.parts), bias=False)  # dt | B | C
        self.dt_proj = nn.Linear(rank, self.inner, bias=False)
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(self.inner))
        self.A_log = nn.Parameter(torch.arange(1.0, self.state + 1).log().repeat(self.inner, 1))  # [inner, N]
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, hidden, bias=spec.bias)
        self.core = Core("selective_scan", spec.name, (scan_of_inputs, scan_of_inputs_step), key_dim=self.state)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        matrix = torch.zeros(batch, 1, self.state, self.inner, dtype=state_dtype(dtype), device=device)
        return RecurrentState(self.conv.init_state(batch, dtype, device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x_BTD = x_BTD.double()
        state = state or self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device)
        x, z = linear_reference(self.in_proj, x_BTD).chunk(2, -1)
        x, conv = self.conv.reference(x, state.conv_BTC.double())
        low, b, c = linear_reference(self.x_proj, x).split(self.parts, -1)
        dt = torch.log1p((linear_reference(self.dt_proj, low) + self.dt_bias.double()).exp())
        a_NC = -self.A_log.double().exp().T
        y, matrix = scan_reference(dt * x, dt, a_NC, b, c, state.matrix_BHKV.double().squeeze(1))
        y = (y + x * self.D.double()) * z * torch.sigmoid(z)
        return linear_reference(self.out_proj, y), RecurrentState(conv, matrix.unsqueeze(1))

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        before = None if state is None else state.matrix_BHKV
        state = state or self.init_state(len(x_BTD), projected.dtype, x_BTD.device)
        x, z = projected.chunk(2, -1)
        x, conv = self.conv(x, state.conv_BTC)
        y, matrix = self._core(x, z, before, self.core.of(projected).forward)
        return self.out_proj(y.to(projected.dtype)), RecurrentState(conv, matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        x, z = projected.chunk(2, -1)
        x, conv = self.conv.step(x, state.conv_BTC)
        y, matrix = self._core(x, z, state.matrix_BHKV, self.core.of(projected).step)
        return self.out_proj(y.to(projected.dtype)), RecurrentState(conv, matrix)

    def _core(self, x: Tensor, z: Tensor, matrix: Tensor | None, scan: Scan) -> tuple[Tensor, Tensor]:
        low, b, c = self.x_proj(x).split(self.parts, -1)
        dt = self.dt_proj(low)
        with torch.autocast(x.device.type, enabled=False):
            dtype = state_dtype(x.dtype) if matrix is None else matrix.dtype
            x, b, c = x.to(dtype), b.to(dtype), c.to(dtype)
            dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
            before = None if matrix is None else matrix.squeeze(1)
            y, state = scan(x, dt, -self.A_log.to(dtype).exp().T, b, c, before)
            return torch.addcmul(y, x, self.D.to(dtype)) * F.silu(z).to(dtype), state.unsqueeze(1)
