"""The delta rule, plain and gated: S <- exp(g) S;  S <- S + k beta (v - S^T k)^T;  o = S^T q.

arXiv 2406.06484 (chunked form), 2412.06464 (gated).

A chunk that starts at state S gives, with G_i the cumulated log decay, D_ij = exp(G_i - G_j) for j <= i,
T = (I + strict_lower(beta k k^T D))^-1:
    W = T beta exp(G) k;  U = T beta v;  u = U - W S;  o = exp(G) q S + lower(q k^T D) u;
    S' = exp(G_C) S + (exp(G_C - G) k)^T u = transition S + update,
so that only `transition S + update` runs chunk by chunk and everything else is one batch over all chunks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flashnas.operators.layers.chunks import (
    chunk_length,
    decay_differences,
    from_chunks,
    lower_ones,
    matrix_scan,
    to_chunks,
    unit_lower_inverse,
)

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
    chunk = chunk or chunk_length(key_dim)
    q, k, v = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    beta = to_chunks(beta_BTH.unsqueeze(-1), chunk)  # [N, B*H, C, 1]
    below = lower_ones(chunk, -1, wide, q.device)
    k_beta = k * beta
    if g_BTH is None:
        attention = (q @ k.mT) * lower_ones(chunk, 0, low, q.device)
        lower = (k_beta @ k.to(wide).mT) * below
        w, k_out = k_beta, k
        last = torch.ones_like(beta[:, :, 0])
    else:
        total = to_chunks(g_BTH.unsqueeze(-1), chunk).cumsum(2)
        decay = decay_differences(total.squeeze(-1))
        attention, lower = ((q @ k.mT) * decay).to(low), (k_beta @ k.to(wide).mT) * (decay * below)
        grown = total.exp()
        q, w, k_out = (q * grown).to(low), k_beta * grown, (k * (total[:, :, -1:] - total).exp()).to(low)
        last = grown[:, :, -1]
    both = unit_lower_inverse(lower).to(low) @ torch.cat([w, v * beta], -1).to(low)  # W | U
    moved, update = (k_out.mT @ both).to(wide).split(sizes, -1)
    seen, inside = (attention @ both).split(sizes, -1)
    transition = torch.diag_embed(last.expand(-1, -1, key_dim)) - moved
    starts, state = matrix_scan(transition, update, state_BHKV.flatten(0, 1))
    o = inside + (q - seen) @ starts.to(low)
    return from_chunks(o.to(wide), batch, tokens), state.view_as(state_BHKV)
