"""The delta rule, plain and gated: S <- exp(g) S;  S <- S + k beta (v - S^T k)^T;  o = S^T q.

arXiv 2406.06484 (chunked form), 2412.06464 (gated).

A chunk that starts at state S gives, with G_i the cumulated log decay, D_ij = exp(G_i - G_j) for j <= i,
T = (I + strict_lower(beta k k^T D))^-1:
    W = T beta exp(G) k;  U = T beta v;  u = U - W S;  o = exp(G) q S + lower(q k^T D) u;
    S' = exp(G_C) S + (exp(G_C - G) k)^T u,
so that only u and S' run chunk by chunk and everything else is one batch over all chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flashnas.operators.parts.numerics import LOG2_E
from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decay_differences_base2,
    from_chunks,
    lower_ones,
    to_chunks,
    unit_lower_inverse,
)

MOST_CHUNK = 32  # with longer ones the inverse and its gradient cost more than fewer states save
DeltaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]]


def delta_rule_reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTH: Tensor | None,
                         state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; g: log decay or None. Returns (o_BTHV, final state)."""
    state, outputs = state_BHKV, []
    for t in range(q_BTHK.shape[1]):
        o, state = delta_rule_step(q_BTHK[:, t], k_BTHK[:, t], v_BTHV[:, t], beta_BTH[:, t],
                                   None if g_BTH is None else g_BTH[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


def delta_rule_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g_BH: Tensor | None,
                    state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    q_BHK, k_BHK, v_BHV = (x.to(state_BHKV.dtype) for x in (q_BHK, k_BHK, v_BHV))
    if g_BH is not None:
        state_BHKV = state_BHKV * g_BH.exp()[..., None, None]
    error = v_BHV - (k_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    state_BHKV = torch.addcmul(state_BHKV, k_BHK.unsqueeze(-1), (beta_BH.unsqueeze(-1) * error).unsqueeze(-2))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def delta_rule_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTH: Tensor | None,
                       state_BHKV: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks; returns (o_BTHV, final state).

    Products run in the dtype of q and k; the inverse, decays and sums, and states from chunk to chunk, in that of the
    state.
    """
    batch, tokens, _, key_dim = q_BTHK.shape
    chunk = chunk or chunk_length(key_dim, MOST_CHUNK)
    q, k, v = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    beta = to_chunks(beta_BTH.unsqueeze(-1), chunk)
    g = None if g_BTH is None else to_chunks(g_BTH.unsqueeze(-1), chunk)
    o, state = _DeltaChunks.apply(q, k, v, beta, g, state_BHKV.flatten(0, 1))
    return from_chunks(o, batch, tokens).to(state.dtype), state.view_as(state_BHKV)


class _DeltaChunks(torch.autograd.Function):
    """q, k [N, B*H, C, K], v [N, B*H, C, V], beta, g [N, B*H, C, 1], state [B*H, K, V] -> (o as v, final state).

    By hand, because what the gradient of the inverse needs is there already, dL = -strict_lower((T^T dWU) WU^T) with
    W and U side by side, and because autograd would add up the gradient of k pass by pass. M below is N and B*H.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None,
                state: Tensor) -> tuple[Tensor, Tensor]:
        low, wide, shape, key_dim = q.dtype, state.dtype, v.shape, k.shape[-1]
        q, k, v, beta = (x.flatten(0, 1) for x in (q, k, v, beta))
        k_wide = k.to(wide)
        similar = torch.bmm(k_wide, k_wide.mT)
        if g is None:
            decay, grown, shrunk = lower_ones(shape[2], 0, wide, q.device), None, None
            q_in, k_out, side = q, k, beta
        else:
            total = g.flatten(0, 1).cumsum(1).mul_(LOG2_E)
            decay, grown = decay_differences_base2(total.squeeze(-1)), total.exp2()
            shrunk, side = (total[:, -1:] - total).exp2_(), beta * grown
            q_in, k_out = (q * grown).to(low), (k_wide * shrunk).to(low)
            similar.mul_(decay)
        similar.mul_(lower_ones(shape[2], -1, wide, q.device))  # L / beta
        attention = torch.bmm(q, k.mT).mul(decay).to(low)
        inverse = unit_lower_inverse(similar * beta).to(low)
        solved = torch.bmm(inverse, torch.cat([k_wide * side, v * beta], -1).to(low))
        w, u = (part.unflatten(0, shape[:2]) for part in solved.split([key_dim, shape[-1]], -1))
        values, starts = torch.empty_like(v), torch.empty(len(q), *state.shape[1:], dtype=low, device=q.device)
        chunks = zip(w, u, *(x.unflatten(0, shape[:2]) for x in (k_out, values, starts)), _lasts(beta, grown, shape),
                     strict=True)
        for w_n, u_n, k_n, values_n, start_n, last in chunks:
            start_n.copy_(state)
            torch.baddbmm(u_n, w_n, start_n, alpha=-1, out=values_n)
            state = torch.addcmul(torch.bmm(k_n.mT, values_n).to(wide), state, last)
        o = torch.bmm(attention, values).baddbmm_(q_in, starts)
        ctx.save_for_backward(q, k, v, beta, decay, grown, shrunk, q_in, k_out, attention, similar, inverse, solved,
                              values, starts)
        ctx.shape = shape
        return o.view(shape), state

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, beta, decay, grown, shrunk, q_in, k_out, attention, similar, inverse, solved, values,
         starts) = ctx.saved_tensors
        low, wide, shape, key_dim = q.dtype, decay.dtype, ctx.shape, k.shape[-1]
        grad_o, grad_state = output_grads[0].to(low).flatten(0, 1), output_grads[1]
        grad_values, after = torch.bmm(attention.mT, grad_o), torch.empty_like(starts)
        grad_starts = torch.bmm(q_in.mT, grad_o).to(wide)
        chunks = zip(*(x.unflatten(0, shape[:2]) for x in (solved[..., :key_dim], k_out, grad_values, grad_starts,
                                                            after)), _lasts(beta, grown, shape), strict=True)
        for w_n, k_n, grad_n, grad_start_n, after_n, last in reversed(list(chunks)):
            after_n.copy_(grad_state)
            grad_n.baddbmm_(k_n, after_n)
            grad_state = torch.addcmul(grad_start_n, grad_state, last).sub_(torch.bmm(w_n.mT, grad_n))

        grad_w = torch.bmm(grad_values, starts.mT).neg_()
        grad_right = torch.bmm(inverse.mT, torch.cat([grad_w, grad_values], -1))
        grad_lower = torch.bmm(grad_right, solved.mT).to(wide).neg_()
        grad_side, grad_v = grad_right.to(wide).split([key_dim, shape[-1]], -1)
        k_wide, weighted = k.to(wide), grad_lower * similar
        along_k, along_rows = _dot(grad_side, k_wide), weighted.sum(-1, keepdim=True)
        grad_beta = _dot(grad_v, v.to(wide)) + along_rows
        grad_similar = grad_lower.mul_(beta).mul_(lower_ones(shape[2], -1, wide, q.device))
        grad_attention = torch.bmm(grad_o, values.mT).to(wide)
        grad_out, grad_q = torch.bmm(values, after.mT), torch.bmm(grad_o, starts.mT)
        grad_g = None
        if grown is None:
            grad_beta += along_k
            grad_k = torch.addcmul(grad_out, grad_side, beta)
        else:
            grad_similar.mul_(decay)
            grad_beta.addcmul_(along_k, grown)
            grad_out, grad_in = grad_out.to(wide).mul_(shrunk), grad_q.to(wide).mul_(grown)
            side, leaving, weighted = beta * grown, _dot(grad_out, k_wide), weighted.mul_(beta)
            weighted.addcmul_(grad_attention, attention.to(wide))
            total = weighted.sum(-1, keepdim=True) - weighted.sum(-2).unsqueeze(-1) - leaving
            total.addcmul_(along_k, side).add_(_dot(grad_in, q.to(wide)))
            moved = _dot(starts.flatten(1).to(wide), after.flatten(1).to(wide))
            total[:, -1] += leaving.sum(1) + moved * grown[:, -1]
            grad_g = total.flip(1).cumsum(1).flip(1).unflatten(0, shape[:2])
            grad_q, grad_k = grad_in.to(low), torch.addcmul(grad_out, grad_side, side)
        grad_attention = grad_attention.mul_(decay).to(low)
        grad_q.baddbmm_(grad_attention, k)
        grad_k = grad_k.to(low).baddbmm_(grad_attention.mT, q).baddbmm_((grad_similar + grad_similar.mT).to(low), k)
        grads = (x.unflatten(0, shape[:2]) for x in (grad_q, grad_k, (grad_v * beta).to(low), grad_beta))
        return *grads, grad_g, grad_state


def _lasts(beta: Tensor, grown: Tensor | None, shape: torch.Size) -> Tensor:
    """[N, B*H, 1, 1], or [N, 1, 1, 1]: by what a chunk's last token has decayed the state before the chunk."""
    return beta.new_ones(shape[0], 1, 1, 1) if grown is None else grown[:, -1:].unflatten(0, shape[:2])


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Over the last dimension, which is kept."""
    return torch.linalg.vecdot(x, y).unsqueeze(-1)
