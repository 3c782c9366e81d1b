"""The state-space dual recurrence of Mamba2: one decay per head, keys and queries shared by groups
of heads.

S <- exp(g) S + k v^T;    o = S^T q           (C is q, B is k, dt x is v; arXiv 2405.21060)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decayed,
    faded,
    scan,
    with_outer,
)


def ssd_scan_step(
    q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state). Head h reads group h // (heads / groups)."""
    heads, groups = x_BHV.shape[1], k_BGK.shape[1]
    q_BGK = q_BGK.to(state_BHKV.dtype)
    k_BGK = k_BGK.to(state_BHKV.dtype)
    if groups == 1:
        q_BHK, k_BHK = (x.expand(-1, heads, -1) for x in (q_BGK, k_BGK))
    else:
        q_BHK, k_BHK = (x.repeat_interleave(heads // groups, 1) for x in (q_BGK, k_BGK))
    state_BHKV = faded(state_BHKV, (-dt_BH * rate_H).exp()[..., None, None])
    state_BHKV = with_outer(state_BHKV, k_BHK, x_BHV * dt_BH.unsqueeze(-1))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def ssd_chunked(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    g_BTH: Tensor,
    state_BHKV: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Many tokens in chunks; returns (o_BTHV, final state).

    The R heads of one group share q and k. Their values and states lie side by side in one product.
    Products run in the dtype of q and k; decays, sums and states in that of v. In the names of
    tensors M is B, N and G together, X is R and V together, and 1 is a dimension of size 1.
    """
    batch, tokens, groups, key_dim = q_BTGK.shape
    heads, value_dim = v_BTHV.shape[2:]
    repeats = heads // groups
    chunk = chunk or chunk_length(key_dim)
    padding = -tokens % chunk

    def cut(x: Tensor) -> Tensor:  # [B, T, G, ..] -> [B, N, G, C, ..], a view unless padded
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, padding)) if padding else x
        return x.unflatten(1, (-1, chunk)).transpose(2, 3)

    sizes = (batch, (tokens + padding) // chunk, groups)
    values = (repeats, value_dim)
    q_MCK, k_MCK = (cut(x).flatten(0, 2) for x in (q_BTGK, k_BTGK))
    v_MCRV, g_MCR = (cut(x.unflatten(2, (groups, repeats))).flatten(0, 2) for x in (v_BTHV, g_BTH))
    low, wide = q_BTGK.dtype, v_BTHV.dtype
    total_MCR = g_MCR.cumsum(1)
    grown_MCR1 = total_MCR.exp().unsqueeze(-1)
    shrunk_MCR1 = (total_MCR[:, -1:] - total_MCR).exp().unsqueeze(-1)
    (weights_MRCC,) = decayed(total_MCR.mT, torch.bmm(q_MCK, k_MCK.mT))
    inside_MRCV = weights_MRCC @ v_MCRV.transpose(1, 2).to(low).contiguous()
    v_out_MCX = (v_MCRV * shrunk_MCR1).to(low).flatten(2)
    update_MKRV = torch.bmm(k_MCK.mT, v_out_MCX).to(wide).unflatten(-1, values)
    starts_NBGKRV, state_BGKRV = scan(
        grown_MCR1[:, -1:].unflatten(0, sizes).movedim(1, 0),
        update_MKRV.unflatten(0, sizes).movedim(1, 0),
        state_BHKV.unflatten(1, (groups, repeats)).transpose(2, 3),
    )
    starts_MKX = starts_NBGKRV.movedim(0, 1).flatten(0, 2).to(low).flatten(2)
    before_MCRV = torch.bmm(q_MCK, starts_MKX).to(wide).unflatten(-1, values)
    o_MCRV = torch.addcmul(inside_MRCV.transpose(1, 2), before_MCRV, grown_MCR1)
    o_BNCGRV = o_MCRV.unflatten(0, sizes).transpose(2, 3)
    o_BTHV = o_BNCGRV.reshape(batch, tokens + padding, heads, value_dim)[:, :tokens]
    return o_BTHV, state_BGKRV.transpose(2, 3).reshape(state_BHKV.shape)


def ssd_scan(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    x_BTHV: Tensor,
    dt_BTH: Tensor,
    rate_H: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """`ssd_chunked` by inputs, time steps and decay rates."""
    return ssd_chunked(q_BTGK, k_BTGK, x_BTHV * dt_BTH.unsqueeze(-1), -dt_BTH * rate_H, state_BHKV)
