"""Mamba2 (`m2`), the state-space dual layer, as transformers' Mamba2Mixer; arXiv 2405.21060.

Per head, with dt = softplus(dt_raw + dt_bias) and g = -exp(A_log) dt: S <- exp(g) S + B (dt x)^T;  y = S^T C + D x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.layers.backends import Core
from flashnas.operators.layers.chunks import chunk_length, decay_differences, diagonal_scan, from_chunks, to_chunks
from flashnas.operators.layers.common import (
    Layer,
    RecurrentState,
    RMSNorm,
    ShortConvolution,
    inverse_softplus_of_log_uniform,
    linear_reference,
    log_of_uniform,
    rms_normalise,
    state_dtype,
)
from flashnas.operators.layers.projection import Projection
from flashnas.operators.mamba2 import Mamba2

SsdScan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def ssd_reference(q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token: S <- exp(g) S + k v^T;  o = S^T q (C is q, B is k, dt x is v). Returns (o_BTHV, final state)."""
    state, outputs = state_BHKV, []
    for t in range(q_BTGK.shape[1]):
        o, state = ssd_step(q_BTGK[:, t], k_BTGK[:, t], v_BTHV[:, t], g_BTH[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


def ssd_step(q_BGK: Tensor, k_BGK: Tensor, v_BHV: Tensor, g_BH: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state). Head h reads group h // (heads / groups)."""
    heads, groups = v_BHV.shape[1], k_BGK.shape[1]
    if groups == 1:
        q_BHK, k_BHK = (x.expand(-1, heads, -1) for x in (q_BGK, k_BGK))
    else:
        q_BHK, k_BHK = (x.repeat_interleave(heads // groups, 1) for x in (q_BGK, k_BGK))
    decayed = state_BHKV * g_BH.exp()[..., None, None]
    state_BHKV = decayed.addcmul_(k_BHK.unsqueeze(-1), v_BHV.unsqueeze(-2))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def ssd_chunked(q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor, state_BHKV: Tensor,
                chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks; returns (o_BTHV, final state).

    The R heads of one group share q and k, so their values and states stand side by side in one product:
    values [N, B*G, C, R, V], states [B*G, K, R, V].
    """
    batch, tokens, groups, key_dim = q_BTGK.shape
    heads, value_dim = v_BTHV.shape[2:]
    repeats, chunk = heads // groups, chunk or chunk_length(key_dim)
    q, k, v = (to_chunks(x, chunk) for x in (q_BTGK, k_BTGK, v_BTHV.unflatten(2, (groups, repeats)).flatten(3)))
    v = v.unflatten(-1, (repeats, value_dim))
    total = to_chunks(g_BTH.unflatten(2, (groups, repeats)), chunk).cumsum(2)  # [N, B*G, C, R]
    last = total[:, :, -1:]

    decay = decay_differences(total.mT)  # [N, B*G, R, C, C]
    inside = ((q @ k.mT).unsqueeze(2) * decay) @ v.transpose(2, 3)
    update = k.mT @ (v * (last - total).exp().unsqueeze(-1)).flatten(3)
    state = state_BHKV.reshape(batch * groups, repeats, key_dim, value_dim).transpose(1, 2)
    starts, state = diagonal_scan(last.exp().unsqueeze(-1), update.unflatten(-1, (repeats, value_dim)), state)
    before = (q @ starts.flatten(3)).unflatten(-1, (repeats, value_dim))
    o = torch.addcmul(inside.transpose(2, 3), before, total.exp().unsqueeze(-1))
    o_BTHV = from_chunks(o.flatten(3), batch, tokens).reshape(batch, tokens, heads, value_dim)
    return o_BTHV, state.transpose(1, 2).reshape(state_BHKV.shape)


def ssd_scan(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`ssd_chunked` by inputs, time steps and decay rates."""
    return ssd_chunked(q_BTGK, k_BTGK, x_BTHV * dt_BTH.unsqueeze(-1), -dt_BTH * rate_H, state_BHKV)


def ssd_scan_step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`ssd_step` by inputs, time steps and decay rates."""
    return ssd_step(q_BGK, k_BGK, x_BHV * dt_BH.unsqueeze(-1), -dt_BH * rate_H, state_BHKV)


class Mamba2Layer(Layer):
    """in_proj gives z, x, B, C, dt; x, B, C pass a convolution and silu; y is normalised after the gate."""

    def __init__(self, spec: Mamba2, hidden: int) -> None:
        super().__init__()
        self.inner, self.heads, self.head_dim = spec.inner(hidden), spec.head_count(hidden), spec.head_dim
        self.groups, self.state, self.dt_min = spec.groups, spec.state, spec.dt_min
        channels = spec.conv_channels(hidden)
        self.sizes = [self.inner, channels, self.heads]
        self.parts = [self.inner, self.groups * self.state, self.groups * self.state]
        self.in_proj = Projection(hidden, sum(self.sizes), bias=spec.bias)  # z | x, B, C | dt
        self.conv = ShortConvolution(channels, spec.conv_size, bias=spec.conv_bias)
        self.A_log = nn.Parameter(log_of_uniform(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(self.heads))
        self.norm = RMSNorm(self.inner)
        self.out_proj = nn.Linear(self.inner, hidden, bias=spec.bias)
        self.core = Core("ssd", spec.name, (ssd_scan, ssd_scan_step), key_dim=self.state, value_dim=self.head_dim)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        matrix = torch.zeros(batch, self.heads, self.state, self.head_dim, dtype=state_dtype(dtype), device=device)
        return RecurrentState(self.conv.init_state(batch, dtype, device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x_BTD = x_BTD.double()
        state = state or self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device)
        z, xbc, dt = linear_reference(self.in_proj, x_BTD).split(self.sizes, -1)
        xbc, conv = self.conv.reference(xbc, state.conv_BTC.double())
        x, b, c = xbc.split(self.parts, -1)
        x = x.unflatten(-1, (self.heads, -1))
        b, c = b.unflatten(-1, (self.groups, -1)), c.unflatten(-1, (self.groups, -1))
        dt = torch.log1p((dt + self.dt_bias.double()).exp()).clamp(min=self.dt_min)
        g = -dt * self.A_log.double().exp()
        y, matrix = ssd_reference(c, b, x * dt.unsqueeze(-1), g, state.matrix_BHKV.double())
        y = (y + x * self.D.double().unsqueeze(-1)).flatten(-2) * z * torch.sigmoid(z)
        y = rms_normalise(y.unflatten(-1, (self.groups, -1))).flatten(-2) * self.norm.weight.double()
        return linear_reference(self.out_proj, y), RecurrentState(conv, matrix)

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        state = state or self.init_state(len(x_BTD), projected.dtype, x_BTD.device)
        z, xbc, dt = projected.split(self.sizes, -1)
        xbc, conv = self.conv(xbc, state.conv_BTC)
        y, matrix = self._core(z, xbc, dt, state.matrix_BHKV, self.core.of(projected).forward)
        return self.out_proj(y.to(projected.dtype)), RecurrentState(conv, matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        z, xbc, dt = projected.split(self.sizes, -1)
        xbc, conv = self.conv.step(xbc, state.conv_BTC)
        y, matrix = self._core(z, xbc, dt, state.matrix_BHKV, self.core.of(projected).step)
        return self.out_proj(y.to(projected.dtype)), RecurrentState(conv, matrix)

    def _core(self, z: Tensor, xbc: Tensor, dt: Tensor, matrix: Tensor, scan: SsdScan) -> tuple[Tensor, Tensor]:
        with torch.autocast(xbc.device.type, enabled=False):
            dtype = matrix.dtype
            x, b, c = xbc.to(dtype).split(self.parts, -1)
            x = x.unflatten(-1, (self.heads, -1))
            b, c = b.unflatten(-1, (self.groups, -1)), c.unflatten(-1, (self.groups, -1))
            dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
            if self.dt_min:
                dt = dt.clamp(min=self.dt_min)
            y, matrix = scan(c, b, x, dt, self.A_log.to(dtype).exp(), matrix)
            y = torch.addcmul(y, x, self.D.to(dtype).unsqueeze(-1)).flatten(-2) * F.silu(z).to(dtype)
            if self.groups > 1:
                y = rms_normalise(y.unflatten(-1, (self.groups, -1))).flatten(-2) * self.norm.weight.to(dtype)
                return y, matrix
            return self.norm(y), matrix
