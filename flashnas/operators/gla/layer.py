"""Gated linear attention (`gla`), as fla's layer; arXiv 2312.06635.  S <- diag(exp(g)) S + k v^T;  o = S^T q.

Decays differ per key channel, so scores inside a chunk are sum_k q_ik k_jk exp(G_ik - G_jk). They are taken by halves:
every right half against its left half with the boundary between them as reference, so that both factors are
exponentials of numbers <= 0, whatever the decay; then the halves of the halves, down to single tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.gla.spec import GatedLinearAttention
from flashnas.operators.layer import Layer, RecurrentState, RMSNorm, rms_normalise, state_dtype
from flashnas.operators.projection import Projection
from flashnas.operators.recurrences.chunks import chunk_length, diagonal_scan, from_chunks, to_chunks
from flashnas.operators.roles import Role

GlaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
MOST_CHUNK = 32
GATE_NORMALISER = 16.0


def gla_reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; returns (o_BTHV, final state)."""
    state, outputs = state_BHKV, []
    for t in range(q_BTHK.shape[1]):
        o, state = gla_step(q_BTHK[:, t], k_BTHK[:, t], v_BTHV[:, t], g_BTHK[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


def gla_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    state_BHKV = state_BHKV * g_BHK.exp().unsqueeze(-1) + k_BHK.unsqueeze(-1) * v_BHV.unsqueeze(-2)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def gla_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor, state_BHKV: Tensor,
                chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks; `chunk` is a power of two. Returns (o_BTHV, final state)."""
    batch, tokens = q_BTHK.shape[:2]
    chunk = chunk or chunk_length(q_BTHK.shape[-1], MOST_CHUNK)
    q, k, v = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    total = to_chunks(g_BTHK, chunk).cumsum(2)  # [N, B*H, C, K]
    last = total[:, :, -1:]
    update = (k * (last - total).exp()).mT @ v
    starts, state = diagonal_scan(last.mT.exp(), update, state_BHKV.flatten(0, 1))
    o = (q * total.exp()) @ starts + _scores_inside(q, k, total) @ v
    return from_chunks(o, batch, tokens), state.view_as(state_BHKV)


def _scores_inside(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """[.., C, K] x 3 -> lower triangular [.., C, C], by halves."""
    size = q.shape[-2]
    if size == 1:
        return (q * k).sum(-1, keepdim=True)
    half = size // 2
    boundary = total[..., half - 1:half, :]
    below = (q[..., half:, :] * (total[..., half:, :] - boundary).exp()) @ (
        k[..., :half, :] * (boundary - total[..., :half, :]).exp()).mT
    q, k, total = (x.unflatten(-2, (2, half)) for x in (q, k, total))
    diagonal = _scores_inside(q, k, total)
    upper = F.pad(diagonal[..., 0, :, :], (0, half))
    return torch.cat([upper, torch.cat([below, diagonal[..., 1, :, :]], -1)], -2)


class GatedLinearAttentionLayer(Layer):
    """Low-rank decay gate logsigmoid(.) / 16; output gate swish; RMSNorm per head."""

    roles: ClassVar = {"in_proj": Role.READS, "gate_proj": Role.GATE, "out_proj": Role.WRITES}

    def __init__(self, spec: GatedLinearAttention, hidden: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.key_dim = hidden, spec.heads(hidden), spec.key_dim
        key = self.heads * self.key_dim
        self.sizes = [key, key, hidden, hidden, spec.gate_rank]
        self.in_proj = Projection(hidden, sum(self.sizes), bias=False)  # q | k | v | output gate | low-rank decay gate
        self.gate_proj = nn.Linear(spec.gate_rank, key)
        self.norm = RMSNorm(spec.head_dim)
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.scale = self.key_dim ** -0.5
        self.core = Core("gla", spec.name, (gla_chunked, gla_step), key_dim=self.key_dim, value_dim=spec.head_dim)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> RecurrentState:
        value_dim = self.hidden // self.heads
        matrix = torch.zeros(batch, self.heads, self.key_dim, value_dim, dtype=state_dtype(dtype), device=device)
        return RecurrentState(torch.zeros(batch, 0, 0, dtype=dtype, device=device), matrix)

    def reference(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        *qkv, gate, low = (x @ self.in_proj.weight.double().T).split(self.sizes, -1)
        g = low @ self.gate_proj.weight.double().T + self.gate_proj.bias.double()
        q, k, v, g = (part.unflatten(-1, (self.heads, -1)) for part in (*qkv, g))
        g = -torch.log1p((-g).exp()) / GATE_NORMALISER
        o, matrix = gla_reference(q * self.scale, k, v, g, state.matrix_BHKV.double())
        o = rms_normalise(o).flatten(-2) * self.norm.weight.double().repeat(self.heads)
        o = o * gate * torch.sigmoid(gate)
        return o @ self.out_proj.weight.double().T, RecurrentState(state.conv_BTC, matrix)

    def forward(self, x_BTD: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BTD)
        state = state or self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device)
        return self._run(projected, state, self.core.of(projected).forward)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        projected = self.in_proj(x_BD)
        return self._run(projected, state, self.core.of(projected).step)

    def _run(self, projected: Tensor, state: RecurrentState, rule: GlaRule) -> tuple[Tensor, RecurrentState]:
        *qkv, gate, low = projected.split(self.sizes, -1)
        g = self.gate_proj(low)
        matrix, dtype = state.matrix_BHKV, state.matrix_BHKV.dtype
        with torch.autocast(projected.device.type, enabled=False):
            q, k, v, g = (part.to(dtype).unflatten(-1, (self.heads, -1)) for part in (*qkv, g))
            o, matrix = rule(q * self.scale, k, v, F.logsigmoid(g) / GATE_NORMALISER, matrix)
            o = self.norm(o).flatten(-2) * F.silu(gate).to(dtype)
        return self.out_proj(o.to(gate.dtype)), RecurrentState(state.conv_BTC, matrix)
