"""Gated linear attention, a decay per key channel: S <- diag(exp(g)) S + k v^T;  o = S^T q.
arXiv 2312.06635

Scores inside a chunk are sum_k q_ik k_jk exp(G_ik - G_jk), with G the cumulated log decay
(`scores_by_halves`).
"""

from __future__ import annotations

from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    diagonal_scan,
    from_chunks,
    scores_by_halves,
    to_chunks,
    token_by_token,
)

MAX_CHUNK = 32


def gla_reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, g_BTHK: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; returns (o_BTHV, final state)."""
    return token_by_token(gla_step, q_BTHK, k_BTHK, v_BTHV, g_BTHK, state=state_BHKV)


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
    scores_NP1C1C = scores_by_halves(q_NPCK.unsqueeze(2), k_NPCK.unsqueeze(2), total_NPCK)
    scores_NPCC = scores_NP1C1C.flatten(-2).squeeze(2)
    o_NPCV = (q_NPCK * total_NPCK.exp()) @ starts_NPKV + scores_NPCC @ v_NPCV
    return from_chunks(o_NPCV, batch, tokens), state_PKV.view_as(state_BHKV)
