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

from flashnas.operators.layers.chunks import (
    chunk_length,
    decay_differences,
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

    Products run in the dtype of q and k; the inverse, decays and states, and what runs from chunk to chunk, in that of
    the state.
    """
    batch, tokens, _, key_dim = q_BTHK.shape
    low, wide = q_BTHK.dtype, state_BHKV.dtype
    sizes = [key_dim, v_BTHV.shape[-1]]
    chunk = chunk or chunk_length(key_dim, MOST_CHUNK)
    q, k, v = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    beta = to_chunks(beta_BTH.unsqueeze(-1), chunk)  # [N, B*H, C, 1]
    below = lower_ones(chunk, -1, wide, q.device)
    k_beta = k * beta
    if g_BTH is None:
        attention = (q @ k.mT) * lower_ones(chunk, 0, low, q.device)
        lower = (k_beta @ k.to(wide).mT) * below
        w, k_out = k_beta, k
        last = torch.ones_like(beta[:, :, :1])
    else:
        total = to_chunks(g_BTH.unsqueeze(-1), chunk).cumsum(2)
        decay = decay_differences(total.squeeze(-1))
        attention, lower = ((q @ k.mT) * decay).to(low), (k_beta @ k.to(wide).mT) * (decay * below)
        grown = total.exp()
        q, w, k_out = (q * grown).to(low), k_beta * grown, (k * (total[:, :, -1:] - total).exp()).to(low)
        last = grown[:, :, -1:]
    w, u = (unit_lower_inverse(lower).to(low) @ torch.cat([w, v * beta], -1).to(low)).split(sizes, -1)
    values, starts, state = _DeltaScan.apply(w, u, k_out, last, state_BHKV.flatten(0, 1))
    o = attention @ values + q @ starts.to(low)
    return from_chunks(o.to(wide), batch, tokens), state.view_as(state_BHKV)


class _DeltaScan(torch.autograd.Function):
    """w, k_out [N, B*H, C, K], u [N, B*H, C, V], last [N, B*H, 1, 1], state S [B*H, K, V], chunk by chunk
    values = u - w S;  S <- last S + k_out^T values. Returns (values, states before each chunk, final state)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, k_out: Tensor, last: Tensor,
                state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, wide = u.dtype, state.dtype
        values = torch.empty(u.shape, dtype=low, device=u.device)
        starts = torch.empty(len(u), *state.shape, dtype=wide, device=u.device)
        for n in range(len(u)):
            starts[n] = state
            torch.baddbmm(u[n], w[n], state.to(low), alpha=-1, out=values[n])
            state = torch.addcmul(torch.bmm(k_out[n].mT, values[n]).to(wide), last[n], starts[n])
        ctx.save_for_backward(w, k_out, last, values, starts)
        return values, starts, state

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        grad_values_read, grad_starts, grad = output_grads
        w, k_out, last, values, starts = ctx.saved_tensors
        low, wide = values.dtype, starts.dtype
        grad_values, after = torch.empty_like(values), torch.empty_like(starts)  # after: of the state behind each chunk
        for n in range(len(values) - 1, -1, -1):
            after[n] = grad
            torch.baddbmm(grad_values_read[n], k_out[n], grad.to(low), out=grad_values[n])
            grad = torch.addcmul(grad_starts[n], last[n], grad) - torch.bmm(w[n].mT, grad_values[n]).to(wide)
        grad_w = (grad_values @ starts.to(low).mT).neg_()
        grad_last = (starts * after).sum((2, 3), keepdim=True)
        return grad_w, grad_values, values @ after.to(low).mT, grad_last, grad
