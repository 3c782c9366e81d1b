"""The recurrence with a diagonal plus low-rank transition, which RWKV7 and Kimi delta attention
share.

    S <- diag(exp(g)) S;  S <- S + b (S^T a)^T + k v^T;  o = S^T q          arXiv 2503.14456,
    2510.26692

a reads the state after the decay. Without b the same vector k writes both: S <- S + k (v + S^T
a)^T, the delta rule with a decay per key channel for a = -k.

In a chunk that starts at state S, with G the cumulated log decay and the marks ^ for exp(G) x and ~
for exp(-G) x, what a reads at all its tokens is p = (I - strict_lower(a^ b~^T))^-1 (a^ S +
strict_lower(a^ k~^T) v) = P S + R, and
    o = q^ S + lower(q^ b~^T) p + lower(q^ k~^T) v;
    S' = exp(G_C) (S + b~^T p + k~^T v) = transition S + update.

Only `transition S + update` runs chunk by chunk. Where the decay is `steep`, scores are
taken by halves (`scores_by_halves`).
"""

import torch
from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decayed_products,
    faded,
    from_chunks,
    lower_ones,
    scan,
    solve_unit_lower,
    to_chunks,
    with_outer,
)

MAX_CHUNK = 32


def dplr_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    a_BHK: Tensor,
    b_BHK: Tensor | None,
    g_BHK: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    state_BHKV = faded(state_BHKV, g_BHK.exp().unsqueeze(-1))
    read_BHV = (a_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    if b_BHK is None:
        state_BHKV = with_outer(state_BHKV, k_BHK, v_BHV + read_BHV)
    else:
        state_BHKV = with_outer(with_outer(state_BHKV, b_BHK, read_BHV), k_BHK, v_BHV)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def dplr_chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    a_BTHK: Tensor,
    b_BTHK: Tensor | None,
    g_BTHK: Tensor,
    state_BHKV: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Many tokens in chunks, all in the state's dtype; `chunk` is a power of two. Returns (o_BTHV,
    final state).

    In the names of tensors P is B and H together, W is 2 (what b and k write) or 1 (without b), E
    is W C: entries that are written, X is K and V side by side.
    """
    batch, tokens, _, key_dim = q_BTHK.shape
    sizes = [key_dim, v_BTHV.shape[-1]]
    chunk = chunk or chunk_length(key_dim, MAX_CHUNK)
    readers_NP2CK = torch.stack([to_chunks(q_BTHK, chunk), to_chunks(a_BTHK, chunk)], 2)
    written = [k_BTHK] if b_BTHK is None else [b_BTHK, k_BTHK]
    writers_NPWCK = torch.stack([to_chunks(x, chunk) for x in written], 2)
    v_NPCV = to_chunks(v_BTHV, chunk)
    g_NPCK = to_chunks(g_BTHK, chunk)
    scores, grown_readers_NP2CK, out_NPWCK, last_NP1K = decayed_products(
        readers_NP2CK, writers_NPWCK, g_NPCK
    )
    # [2 C, C]
    mask = torch.cat(
        [lower_ones(chunk, diagonal, v_NPCV.dtype, v_NPCV.device) for diagonal in (0, -1)]
    )
    # by q, by a; scores: [N, P, 2 C, E]
    seen_NPCE, read_NPCE = (scores * mask.repeat(1, len(written))).chunk(2, -2)
    # of E on outputs and final state, [N, P, C + K, E]
    effect = torch.cat([seen_NPCE, out_NPWCK.flatten(2, 3).mT], -2)
    q_NPCK, a_NPCK = grown_readers_NP2CK.unbind(2)
    if b_BTHK is None:
        # [N, P, C + K, X]
        both = effect @ solve_unit_lower(-read_NPCE, torch.cat([a_NPCK, v_NPCV], -1))
        on_state, fixed = both.split(sizes, -1)
    else:
        read_b_NPCC, read_k_NPCC = read_NPCE.chunk(2, -1)
        effect_b, effect_k = effect.chunk(2, -1)
        right_NPCX = torch.cat([a_NPCK, read_k_NPCC @ v_NPCV], -1)
        both = effect_b @ solve_unit_lower(-read_b_NPCC, right_NPCX)
        on_state, fixed = both.split(sizes, -1)
        fixed = fixed + effect_k @ v_NPCV
    seen_state_NPCK, moved_NPKK = on_state.split([chunk, key_dim], -2)
    inside_NPCV, update_NPKV = fixed.split([chunk, key_dim], -2)
    transition_NPKK = moved_NPKK + torch.diag_embed(last_NP1K.squeeze(2))
    starts_NPKV, state_PKV = scan(
        transition_NPKK, update_NPKV, state_BHKV.flatten(0, 1), matrix=True
    )
    o_NPCV = inside_NPCV + (q_NPCK + seen_state_NPCK) @ starts_NPKV
    return from_chunks(o_NPCV, batch, tokens), state_PKV.view_as(state_BHKV)


def kda_chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    g_BTHK: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """`dplr_chunked` of the delta rule at rate beta."""
    return dplr_chunked(
        q_BTHK, k_BTHK * beta_BTH.unsqueeze(-1), v_BTHV, -k_BTHK, None, g_BTHK, state_BHKV
    )


def kda_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g_BHK: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """`dplr_step` of the delta rule at rate beta."""
    return dplr_step(q_BHK, k_BHK * beta_BH.unsqueeze(-1), v_BHV, -k_BHK, None, g_BHK, state_BHKV)
