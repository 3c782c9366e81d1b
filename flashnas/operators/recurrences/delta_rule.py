"""The delta rule, plain and gated: S <- exp(g) S;  S <- S + k beta (v - S^T k)^T;  o = S^T q.

arXiv 2406.06484 (chunked form), 2412.06464 (gated).

A chunk that starts at state S gives, with G_i the cumulated log decay, D_ij = exp(G_i - G_j) for j
<= i, T = (I + strict_lower(beta k k^T D))^-1:
    W = T beta exp(G) k;  U = T beta v;  u = U - W S;  o = exp(G) q S + lower(q k^T D) u;
    S' = exp(G_C) S + (exp(G_C - G) k)^T u.

Only u and S' run chunk by chunk; everything else is one batch over all chunks.
"""

import torch
from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decayed,
    faded,
    from_chunks,
    lower_ones,
    solve_unit_lower,
    to_chunks,
    with_outer,
)


def delta_rule_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    beta_BH: Tensor,
    g_BH: Tensor | None,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    q_BHK, k_BHK, v_BHV = (x.to(state_BHKV.dtype) for x in (q_BHK, k_BHK, v_BHV))
    if g_BH is not None:
        state_BHKV = faded(state_BHKV, g_BH.exp()[..., None, None])
    error_BHV = v_BHV - (k_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    state_BHKV = with_outer(state_BHKV, k_BHK, beta_BH.unsqueeze(-1) * error_BHV)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def delta_rule_chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    g_BTH: Tensor | None,
    state_BHKV: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Many tokens in chunks; returns (o_BTHV, final state).

    Products run in the dtype of q and k; the inverse, decays and sums, and states from chunk to
    chunk, in that of the state. In the names of tensors P is B and H together, M is N and P
    together, X is K and V side by side, and 1 is a dimension of size 1.
    """
    batch, tokens, _, key_dim = q_BTHK.shape
    chunk = chunk or chunk_length(key_dim)
    low, wide = q_BTHK.dtype, state_BHKV.dtype
    q_NPCK, k_NPCK, v_NPCV = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    sizes = q_NPCK.shape[:2]
    q_MCK, k_MCK, v_MCV = (x.flatten(0, 1) for x in (q_NPCK, k_NPCK, v_NPCV))
    beta_MC1 = to_chunks(beta_BTH.unsqueeze(-1), chunk).flatten(0, 1)
    k_wide_MCK = k_MCK.to(wide)
    similar_MCC = torch.bmm(k_wide_MCK, k_wide_MCK.mT)
    attention_MCC = torch.bmm(q_MCK, k_MCK.mT)
    if g_BTH is None:
        attention_MCC = attention_MCC * lower_ones(chunk, 0, low, q_MCK.device)
        q_in_MCK = q_MCK
        k_out_MCK = k_MCK
        side_MC1 = beta_MC1
        lasts_NP11 = beta_MC1.new_ones(1, 1, 1, 1).expand(*sizes, 1, 1)
    else:
        total_MC1 = to_chunks(g_BTH.unsqueeze(-1), chunk).flatten(0, 1).cumsum(1)
        grown_MC1 = total_MC1.exp()
        shrunk_MC1 = (total_MC1[:, -1:] - total_MC1).exp()
        similar_MCC, attention_MCC = (
            scores.squeeze(1) for scores in decayed(total_MC1.mT, similar_MCC, attention_MCC)
        )
        q_in_MCK = (q_MCK * grown_MC1).to(low)
        k_out_MCK = (k_wide_MCK * shrunk_MC1).to(low)
        side_MC1 = beta_MC1 * grown_MC1
        lasts_NP11 = grown_MC1[:, -1:].unflatten(0, sizes)
    lower_MCC = similar_MCC * lower_ones(chunk, -1, wide, q_MCK.device) * beta_MC1
    right_MCX = torch.cat([k_wide_MCK * side_MC1, v_MCV * beta_MC1], -1).to(low)
    solved_MCX = solve_unit_lower(lower_MCC, right_MCX)
    w_MCK, u_MCV = solved_MCX.split([key_dim, v_MCV.shape[-1]], -1)
    state_PKV = state_BHKV.flatten(0, 1)
    values, starts = [], []
    for w_PCK, u_PCV, k_PCK, last_P11 in zip(
        *(x.unflatten(0, sizes) for x in (w_MCK, u_MCV, k_out_MCK)), lasts_NP11, strict=True
    ):
        starts.append(state_PKV.to(low))
        values.append(torch.baddbmm(u_PCV, w_PCK, starts[-1], alpha=-1))
        update_PKV = torch.bmm(k_PCK.mT, values[-1]).to(wide)
        state_PKV = torch.addcmul(update_PKV, state_PKV, last_P11)
    inside_MCV = torch.bmm(attention_MCC, torch.cat(values))
    o_MCV = torch.baddbmm(inside_MCV, q_in_MCK, torch.cat(starts))
    o_BTHV = from_chunks(o_MCV.unflatten(0, sizes), batch, tokens)
    return o_BTHV.to(wide), state_PKV.view_as(state_BHKV)
