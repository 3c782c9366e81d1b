"""Gated linear attention, a decay per key channel: S <- diag(exp(g)) S + k v^T;  o = S^T q.
arXiv 2312.06635

Scores inside a chunk are sum_k q_ik k_jk exp(G_ik - G_jk) with G the cumulated log decay. They are taken by
halves: every right half against its left half with the boundary between them as reference. Both factors are
then exponentials of numbers <= 0 for every decay. The halves of the halves follow, down to single tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.recurrences.chunks import chunk_length, diagonal_scan, from_chunks, to_chunks

MAX_CHUNK = 32


def gla_reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; returns (o_BTHV, final state)."""
    outputs = []
    for t in range(q_BTHK.shape[1]):
        o_BHV, state_BHKV = gla_step(q_BTHK[:, t], k_BTHK[:, t], v_BTHV[:, t], g_BTHK[:, t], state_BHKV)
        outputs.append(o_BHV)
    return torch.stack(outputs, 1), state_BHKV


def gla_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    state_BHKV = state_BHKV * g_BHK.exp().unsqueeze(-1) + k_BHK.unsqueeze(-1) * v_BHV.unsqueeze(-2)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def gla_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor, state_BHKV: Tensor,
                chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks; `chunk` is a power of two. Returns (o_BTHV, final state)."""
    batch, tokens = q_BTHK.shape[:2]
    chunk = chunk or chunk_length(q_BTHK.shape[-1], MAX_CHUNK)
    q_NPCK, k_NPCK, v_NPCV = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))  # P: B and H together
    total_NPCK = to_chunks(g_BTHK, chunk).cumsum(2)
    last_NP1K = total_NPCK[:, :, -1:]
    update_NPKV = (k_NPCK * (last_NP1K - total_NPCK).exp()).mT @ v_NPCV
    starts_NPKV, state_PKV = diagonal_scan(last_NP1K.mT.exp(), update_NPKV, state_BHKV.flatten(0, 1))
    o_NPCV = (q_NPCK * total_NPCK.exp()) @ starts_NPKV + _scores_inside(q_NPCK, k_NPCK, total_NPCK) @ v_NPCV
    return from_chunks(o_NPCV, batch, tokens), state_PKV.view_as(state_BHKV)


def _scores_inside(q_CK: Tensor, k_CK: Tensor, total_CK: Tensor) -> Tensor:
    """[.., C, K] x 3 -> lower triangular [.., C, C], by halves. L is half of C; leading dimensions are not
    named."""
    size = q_CK.shape[-2]
    if size == 1:
        return (q_CK * k_CK).sum(-1, keepdim=True)
    half = size // 2
    boundary_1K = total_CK[..., half - 1:half, :]
    right_LK = q_CK[..., half:, :] * (total_CK[..., half:, :] - boundary_1K).exp()
    left_LK = k_CK[..., :half, :] * (boundary_1K - total_CK[..., :half, :]).exp()
    below_LL = right_LK @ left_LK.mT
    diagonal_2LL = _scores_inside(*(x.unflatten(-2, (2, half)) for x in (q_CK, k_CK, total_CK)))
    upper_LC = F.pad(diagonal_2LL[..., 0, :, :], (0, half))
    return torch.cat([upper_LC, torch.cat([below_LL, diagonal_2LL[..., 1, :, :]], -1)], -2)
