"""Gated linear attention, a decay per key channel: S <- diag(exp(g)) S + k v^T;  o = S^T q.    arXiv 2312.06635

Scores inside a chunk are sum_k q_ik k_jk exp(G_ik - G_jk) with G the cumulated log decay. They are taken by halves:
every right half against its left half with the boundary between them as reference, so that both factors are
exponentials of numbers <= 0, whatever the decay; then the halves of the halves, down to single tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.recurrences.chunks import chunk_length, diagonal_scan, from_chunks, to_chunks

MOST_CHUNK = 32


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
