"""The delta rule, plain and gated: S <- exp(g) S;  S <- S + k beta (v - S^T k)^T;  o = S^T q.

arXiv 2406.06484 (chunked form), 2412.06464 (gated).

A chunk that starts at state S gives, with G_i the cumulated log decay, D_ij = exp(G_i - G_j) for j
<= i, T = (I + strict_lower(beta k k^T D))^-1:
    W = T beta exp(G) k;  U = T beta v;  u = U - W S;  o = exp(G) q S + lower(q k^T D) u;
    S' = exp(G_C) S + (exp(G_C - G) k)^T u.

Only u and S' run chunk by chunk; everything else is one batch over all chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashnas.operators.parts import LOG2_E
from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decay_differences_base2,
    from_chunks,
    lower_ones,
    to_chunks,
    token_by_token,
    unit_lower_inverse,
)


def delta_rule_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    g_BTH: Tensor | None,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Token by token; g: log decay or None. Returns (o_BTHV, final state)."""
    return token_by_token(
        delta_rule_step, q_BTHK, k_BTHK, v_BTHV, beta_BTH, g_BTH, state=state_BHKV
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
        state_BHKV = state_BHKV * g_BH.exp()[..., None, None]
    error_BHV = v_BHV - (k_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    state_BHKV = torch.addcmul(
        state_BHKV, k_BHK.unsqueeze(-1), (beta_BH.unsqueeze(-1) * error_BHV).unsqueeze(-2)
    )
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
    """The same in chunks; returns (o_BTHV, final state).

    Products run in the dtype of q and k; the inverse, decays and sums, and states from chunk to
    chunk, in that of the state.
    """
    batch, tokens, _, key_dim = q_BTHK.shape
    chunk = chunk or chunk_length(key_dim)
    q_NPCK, k_NPCK, v_NPCV = (
        to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV)
    )  # P: B and H together
    beta_NPC1 = to_chunks(beta_BTH.unsqueeze(-1), chunk)
    g_NPC1 = None if g_BTH is None else to_chunks(g_BTH.unsqueeze(-1), chunk)
    o_NPCV, state_PKV = _DeltaChunks.apply(
        q_NPCK, k_NPCK, v_NPCV, beta_NPC1, g_NPC1, state_BHKV.flatten(0, 1)
    )
    return from_chunks(o_NPCV, batch, tokens).to(state_PKV.dtype), state_PKV.view_as(state_BHKV)


class _DeltaChunks(torch.autograd.Function):
    """q, k [N, B*H, C, K], v [N, B*H, C, V], beta, g [N, B*H, C, 1], state [B*H, K, V] -> (o as v,
    final state).

    By hand, because what the gradient of the inverse needs is there already, dL =
    -strict_lower((T^T dWU) WU^T) with W and U side by side, and because autograd would add up the
    gradient of k pass by pass. In the names of tensors P is B and H together, M is N and P
    together, X is K and V side by side, and 1 is a dimension of size 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_NPCK: Tensor,
        k_NPCK: Tensor,
        v_NPCV: Tensor,
        beta_NPC1: Tensor,
        g_NPC1: Tensor | None,
        state_PKV: Tensor,
    ) -> tuple[Tensor, Tensor]:
        low, wide, shape, key_dim = q_NPCK.dtype, state_PKV.dtype, v_NPCV.shape, k_NPCK.shape[-1]
        q_MCK, k_MCK, v_MCV, beta_MC1 = (
            x.flatten(0, 1) for x in (q_NPCK, k_NPCK, v_NPCV, beta_NPC1)
        )
        k_wide_MCK = k_MCK.to(wide)
        similar_MCC = torch.bmm(k_wide_MCK, k_wide_MCK.mT)
        if g_NPC1 is None:
            decay, grown_MC1, shrunk_MC1 = lower_ones(shape[2], 0, wide, q_MCK.device), None, None
            q_in_MCK, k_out_MCK, side_MC1 = q_MCK, k_MCK, beta_MC1
        else:
            total_MC1 = g_NPC1.flatten(0, 1).cumsum(1).mul_(LOG2_E)
            # [M, C, C] | [C, C]
            decay, grown_MC1 = decay_differences_base2(total_MC1.squeeze(-1)), total_MC1.exp2()
            shrunk_MC1, side_MC1 = (total_MC1[:, -1:] - total_MC1).exp2_(), beta_MC1 * grown_MC1
            q_in_MCK, k_out_MCK = (q_MCK * grown_MC1).to(low), (k_wide_MCK * shrunk_MC1).to(low)
            similar_MCC.mul_(decay)
        similar_MCC.mul_(lower_ones(shape[2], -1, wide, q_MCK.device))  # L / beta
        attention_MCC = torch.bmm(q_MCK, k_MCK.mT).mul(decay).to(low)
        inverse_MCC = unit_lower_inverse(similar_MCC * beta_MC1).to(low)
        solved_MCX = torch.bmm(
            inverse_MCC, torch.cat([k_wide_MCK * side_MC1, v_MCV * beta_MC1], -1).to(low)
        )
        w_NPCK, u_NPCV = (
            part.unflatten(0, shape[:2]) for part in solved_MCX.split([key_dim, shape[-1]], -1)
        )
        values_MCV = torch.empty_like(v_MCV)
        starts_MKV = torch.empty(len(q_MCK), *state_PKV.shape[1:], dtype=low, device=q_MCK.device)
        chunks = zip(
            w_NPCK,
            u_NPCV,
            *(x.unflatten(0, shape[:2]) for x in (k_out_MCK, values_MCV, starts_MKV)),
            _lasts(beta_MC1, grown_MC1, shape),
            strict=True,
        )
        for w_PCK, u_PCV, k_PCK, values_PCV, start_PKV, last_P11 in chunks:
            start_PKV.copy_(state_PKV)
            torch.baddbmm(u_PCV, w_PCK, start_PKV, alpha=-1, out=values_PCV)
            state_PKV = torch.addcmul(torch.bmm(k_PCK.mT, values_PCV).to(wide), state_PKV, last_P11)
        o_MCV = torch.bmm(attention_MCC, values_MCV).baddbmm_(q_in_MCK, starts_MKV)
        ctx.save_for_backward(
            q_MCK,
            k_MCK,
            v_MCV,
            beta_MC1,
            decay,
            grown_MC1,
            shrunk_MC1,
            q_in_MCK,
            k_out_MCK,
            attention_MCC,
            similar_MCC,
            inverse_MCC,
            solved_MCX,
            values_MCV,
            starts_MKV,
        )
        ctx.shape = shape
        return o_MCV.view(shape), state_PKV

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        (
            q_MCK,
            k_MCK,
            v_MCV,
            beta_MC1,
            decay,
            grown_MC1,
            shrunk_MC1,
            q_in_MCK,
            k_out_MCK,
            attention_MCC,
            similar_MCC,
            inverse_MCC,
            solved_MCX,
            values_MCV,
            starts_MKV,
        ) = ctx.saved_tensors
        low, wide, shape, key_dim = q_MCK.dtype, decay.dtype, ctx.shape, k_MCK.shape[-1]
        grad_o_MCV, grad_state_PKV = output_grads[0].to(low).flatten(0, 1), output_grads[1]
        grad_values_MCV, after_MKV = (
            torch.bmm(attention_MCC.mT, grad_o_MCV),
            torch.empty_like(starts_MKV),
        )
        grad_starts_MKV = torch.bmm(q_in_MCK.mT, grad_o_MCV).to(wide)
        by_chunk = (
            x.unflatten(0, shape[:2])
            for x in (
                solved_MCX[..., :key_dim],
                k_out_MCK,
                grad_values_MCV,
                grad_starts_MKV,
                after_MKV,
            )
        )
        chunks = zip(*by_chunk, _lasts(beta_MC1, grown_MC1, shape), strict=True)
        for w_PCK, k_PCK, grad_PCV, grad_start_PKV, after_PKV, last_P11 in reversed(list(chunks)):
            after_PKV.copy_(grad_state_PKV)
            grad_PCV.baddbmm_(k_PCK, after_PKV)
            grad_state_PKV = torch.addcmul(grad_start_PKV, grad_state_PKV, last_P11)
            grad_state_PKV.sub_(torch.bmm(w_PCK.mT, grad_PCV))

        grad_w_MCK = torch.bmm(grad_values_MCV, starts_MKV.mT).neg_()
        grad_right_MCX = torch.bmm(inverse_MCC.mT, torch.cat([grad_w_MCK, grad_values_MCV], -1))
        grad_lower_MCC = torch.bmm(grad_right_MCX, solved_MCX.mT).to(wide).neg_()
        grad_side_MCK, grad_v_MCV = grad_right_MCX.to(wide).split([key_dim, shape[-1]], -1)
        k_wide_MCK, weighted_MCC = k_MCK.to(wide), grad_lower_MCC * similar_MCC
        along_k_MC1, along_rows_MC1 = (
            _dot(grad_side_MCK, k_wide_MCK),
            weighted_MCC.sum(-1, keepdim=True),
        )
        grad_beta_MC1 = _dot(grad_v_MCV, v_MCV.to(wide)) + along_rows_MC1
        grad_similar_MCC = grad_lower_MCC.mul_(beta_MC1).mul_(
            lower_ones(shape[2], -1, wide, q_MCK.device)
        )
        grad_attention_MCC = torch.bmm(grad_o_MCV, values_MCV.mT).to(wide)
        grad_out_MCK, grad_q_MCK = (
            torch.bmm(values_MCV, after_MKV.mT),
            torch.bmm(grad_o_MCV, starts_MKV.mT),
        )
        grad_g = None
        if grown_MC1 is None:
            grad_beta_MC1 += along_k_MC1
            grad_k_MCK = torch.addcmul(grad_out_MCK, grad_side_MCK, beta_MC1)
        else:
            grad_similar_MCC.mul_(decay)
            grad_beta_MC1.addcmul_(along_k_MC1, grown_MC1)
            grad_out_MCK = grad_out_MCK.to(wide).mul_(shrunk_MC1)
            grad_in_MCK = grad_q_MCK.to(wide).mul_(grown_MC1)
            side_MC1, leaving_MC1 = beta_MC1 * grown_MC1, _dot(grad_out_MCK, k_wide_MCK)
            weighted_MCC.mul_(beta_MC1).addcmul_(grad_attention_MCC, attention_MCC.to(wide))
            total_MC1 = (
                weighted_MCC.sum(-1, keepdim=True)
                - weighted_MCC.sum(-2).unsqueeze(-1)
                - leaving_MC1
            )
            total_MC1.addcmul_(along_k_MC1, side_MC1).add_(_dot(grad_in_MCK, q_MCK.to(wide)))
            moved_M1 = _dot(starts_MKV.flatten(1).to(wide), after_MKV.flatten(1).to(wide))
            total_MC1[:, -1] += leaving_MC1.sum(1) + moved_M1 * grown_MC1[:, -1]
            grad_g = total_MC1.flip(1).cumsum(1).flip(1).unflatten(0, shape[:2])
            grad_q_MCK, grad_k_MCK = (
                grad_in_MCK.to(low),
                torch.addcmul(grad_out_MCK, grad_side_MCK, side_MC1),
            )
        grad_attention_MCC = grad_attention_MCC.mul_(decay).to(low)
        grad_q_MCK.baddbmm_(grad_attention_MCC, k_MCK)
        grad_k_MCK = grad_k_MCK.to(low).baddbmm_(grad_attention_MCC.mT, q_MCK)
        grad_k_MCK.baddbmm_((grad_similar_MCC + grad_similar_MCC.mT).to(low), k_MCK)
        grads = (grad_q_MCK, grad_k_MCK, (grad_v_MCV * beta_MC1).to(low), grad_beta_MC1)
        return *(x.unflatten(0, shape[:2]) for x in grads), grad_g, grad_state_PKV


def _lasts(beta_MC1: Tensor, grown_MC1: Tensor | None, shape: torch.Size) -> Tensor:
    """[N, P, 1, 1], or [N, 1, 1, 1]: by what a chunk's last token has decayed the state before the
    chunk.
    """
    if grown_MC1 is None:
        return beta_MC1.new_ones(shape[0], 1, 1, 1)
    return grown_MC1[:, -1:].unflatten(0, shape[:2])


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Over the last dimension, which is kept."""
    return torch.linalg.vecdot(x, y).unsqueeze(-1)
