"""Gated linear attention, a decay per key channel: S <- diag(exp(g)) S + k v^T;  o = S^T q.
arXiv 2312.06635

Scores inside a chunk are sum_k q_ik k_jk exp(G_ik - G_jk), with G the cumulated log decay: products
of exp(G) q and exp(-G) k, or `scores_by_halves` where `steep` decay does not allow them.
"""

from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decayed_products,
    faded,
    from_chunks,
    lower_ones,
    scan,
    to_chunks,
    with_outer,
)


def gla_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    state_BHKV = with_outer(faded(state_BHKV, g_BHK.exp().unsqueeze(-1)), k_BHK, v_BHV)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def gla_chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    g_BTHK: Tensor,
    state_BHKV: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Many tokens in chunks; `chunk` is a power of two. Returns (o_BTHV, final state)."""
    batch, tokens = q_BTHK.shape[:2]
    chunk = chunk or chunk_length(q_BTHK.shape[-1])
    # P: B and H together
    q_NPCK, k_NPCK, v_NPCV = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    scores_NPCC, grown_q_NP1CK, out_NP1CK, last_NP1K = decayed_products(
        q_NPCK.unsqueeze(2), k_NPCK.unsqueeze(2), to_chunks(g_BTHK, chunk)
    )
    starts_NPKV, state_PKV = scan(
        last_NP1K.mT, out_NP1CK.squeeze(2).mT @ v_NPCV, state_BHKV.flatten(0, 1)
    )
    mask_CC = lower_ones(chunk, 0, v_NPCV.dtype, v_NPCV.device)
    o_NPCV = grown_q_NP1CK.squeeze(2) @ starts_NPKV + (scores_NPCC * mask_CC) @ v_NPCV
    return from_chunks(o_NPCV, batch, tokens), state_PKV.view_as(state_BHKV)
