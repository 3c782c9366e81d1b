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
    decay_differences,
    from_chunks,
    matrix_scan,
    to_chunks,
    unit_lower_inverse,
)

DeltaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]]
CHUNK = 32


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
    if g_BH is not None:
        state_BHKV = state_BHKV * g_BH.exp()[..., None, None]
    error = v_BHV - (k_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    state_BHKV = state_BHKV + k_BHK.unsqueeze(-1) * (beta_BH.unsqueeze(-1) * error).unsqueeze(-2)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def delta_rule_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTH: Tensor | None,
                       state_BHKV: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The same in chunks, all in the state's dtype; returns (o_BTHV, final state)."""
    batch, tokens, _, key_dim = q_BTHK.shape
    q, k, v = (to_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHV))
    beta = to_chunks(beta_BTH.unsqueeze(-1), chunk)  # [N, B*H, C, 1]
    attention, lower = q @ k.mT, (k * beta) @ k.mT
    if g_BTH is None:
        attention, lower = attention.tril(), lower.tril(-1)
        right = torch.cat([k, v], -1) * beta
        k_out = k
    else:
        total = to_chunks(g_BTH.unsqueeze(-1), chunk).cumsum(2)
        decay = decay_differences(total.squeeze(-1))
        attention, lower = attention * decay, (lower * decay).tril(-1)
        grown = total.exp()
        right = torch.cat([k * grown, v], -1) * beta
        q = q * grown
        k_out = k * (total[:, :, -1:] - total).exp()
    both = unit_lower_inverse(lower) @ right  # W | U
    moved = k_out.mT @ both
    seen = attention @ both
    transition, update = -moved[..., :key_dim], moved[..., key_dim:]
    last = torch.ones_like(k[:, :, 0, :1]) if g_BTH is None else grown[:, :, -1]
    transition = transition + torch.diag_embed(last.expand(*last.shape[:2], key_dim))
    states = matrix_scan(transition, update, state_BHKV.flatten(0, 1))
    o = seen[..., key_dim:] + (q - seen[..., :key_dim]) @ states[:-1]
    return from_chunks(o, batch, tokens), states[-1].view_as(state_BHKV)
