"""The state-space dual recurrence of Mamba2: one decay per head, keys and queries shared by groups
of heads.

S <- exp(g) S + k v^T;    o = S^T q           (C is q, B is k, dt x is v; arXiv 2405.21060)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.parts import LOG2_E
from flashnas.operators.recurrences.chunks import (
    chunk_length,
    decay_differences_base2,
    lower_ones,
    token_by_token,
)


def ssd_reference(
    q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token; returns (o_BTHV, final state)."""
    return token_by_token(ssd_step, q_BTGK, k_BTGK, v_BTHV, g_BTH, state=state_BHKV)


def ssd_step(
    q_BGK: Tensor, k_BGK: Tensor, v_BHV: Tensor, g_BH: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state). Head h reads group h // (heads / groups)."""
    heads, groups = v_BHV.shape[1], k_BGK.shape[1]
    q_BGK, k_BGK = q_BGK.to(state_BHKV.dtype), k_BGK.to(state_BHKV.dtype)
    if groups == 1:
        q_BHK, k_BHK = (x.expand(-1, heads, -1) for x in (q_BGK, k_BGK))
    else:
        q_BHK, k_BHK = (x.repeat_interleave(heads // groups, 1) for x in (q_BGK, k_BGK))
    decayed_BHKV = state_BHKV * g_BH.exp()[..., None, None]
    state_BHKV = decayed_BHKV.addcmul_(k_BHK.unsqueeze(-1), v_BHV.unsqueeze(-2))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def ssd_chunked(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    g_BTH: Tensor,
    state_BHKV: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in chunks; returns (o_BTHV, final state).

    The R heads of one group share q and k. Their values and states lie side by side in one product:
    values [B, N, G, C, R, V], states [B, G, K, R, V].
    """
    batch, tokens, groups, key_dim = q_BTGK.shape
    heads, value_dim = v_BTHV.shape[2:]
    repeats, chunk = heads // groups, chunk or chunk_length(key_dim)
    padding = -tokens % chunk

    def cut(x: Tensor) -> Tensor:  # [B, T, G, ..] -> [B, N, G, C, ..], a view unless padded
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, padding)) if padding else x
        return x.unflatten(1, (-1, chunk)).transpose(2, 3)

    state_BGKRV = state_BHKV.unflatten(1, (groups, repeats)).transpose(2, 3)
    v_BTGRV, g_BTGR = (x.unflatten(2, (groups, repeats)) for x in (v_BTHV, g_BTH))
    o_BNGCRV, state_BGKRV = _SsdChunks.apply(
        cut(q_BTGK), cut(k_BTGK), cut(v_BTGRV), cut(g_BTGR), state_BGKRV
    )
    o_BTHV = o_BNGCRV.transpose(2, 3).reshape(batch, tokens + padding, heads, value_dim)[:, :tokens]
    return o_BTHV, state_BGKRV.transpose(2, 3).reshape(state_BHKV.shape)


class _SsdChunks(torch.autograd.Function):
    """q, k [B, N, G, C, K], v [B, N, G, C, R, V], g [B, N, G, C, R], state [B, G, K, R, V] -> (o as
    v, final state).

    Products run in the dtype of q and k; decays, sums and states in that of v. In the names of
    tensors M is B, N and G together, X is R and V together, and 1 is a dimension of size 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BNGCK: Tensor,
        k_BNGCK: Tensor,
        v_BNGCRV: Tensor,
        g_BNGCR: Tensor,
        state_BGKRV: Tensor,
    ) -> tuple[Tensor, Tensor]:
        low, wide, sizes, values = (
            q_BNGCK.dtype,
            v_BNGCRV.dtype,
            v_BNGCRV.shape[:3],
            v_BNGCRV.shape[4:],
        )
        q_MCK, k_MCK, v_MCRV = (x.flatten(0, 2) for x in (q_BNGCK, k_BNGCK, v_BNGCRV))
        total_MCR = g_BNGCR.cumsum(3).mul_(LOG2_E).flatten(0, 2)
        grown_MCR1, shrunk_MCR1 = (
            total_MCR.exp2().unsqueeze(-1),
            (total_MCR[:, -1:] - total_MCR).exp2_().unsqueeze(-1),
        )
        decay_MRCC = decay_differences_base2(total_MCR.mT, masked=False)
        v_MRCV = v_MCRV.transpose(1, 2).to(low).contiguous()
        mask_CC = lower_ones(q_MCK.shape[1], 0, low, q_MCK.device)
        scores_M1CC = torch.bmm(q_MCK, k_MCK.mT).mul_(mask_CC).unsqueeze(1)
        weights_MRCC = (scores_M1CC * decay_MRCC).to(low)
        v_out_MCX = (v_MCRV * shrunk_MCR1).to(low).flatten(2)
        update_BNGKRV = (
            torch.bmm(k_MCK.mT, v_out_MCX).to(wide).unflatten(-1, values).unflatten(0, sizes)
        )
        factor_BNG1R1 = grown_MCR1[:, -1:].unflatten(0, sizes)
        # before each chunk, and the final one: N + 1 states
        states_BNGKRV = update_BNGKRV.new_empty(sizes[0], sizes[1] + 1, *update_BNGKRV.shape[2:])
        states_BNGKRV[:, 0] = state_BGKRV
        for n in range(sizes[1]):
            torch.addcmul(
                update_BNGKRV[:, n],
                factor_BNG1R1[:, n],
                states_BNGKRV[:, n],
                out=states_BNGKRV[:, n + 1],
            )
        starts_MKX = states_BNGKRV[:, :-1].flatten(0, 2).to(low).flatten(2)
        before_MCRV = torch.bmm(q_MCK, starts_MKX).to(wide).unflatten(-1, values).mul_(grown_MCR1)
        o_MCRV = before_MCRV + (weights_MRCC @ v_MRCV).transpose(1, 2)
        ctx.save_for_backward(
            q_MCK,
            k_MCK,
            v_MRCV,
            v_out_MCX,
            grown_MCR1,
            shrunk_MCR1,
            decay_MRCC,
            scores_M1CC,
            weights_MRCC,
            states_BNGKRV,
            starts_MKX,
            before_MCRV,
        )
        return o_MCRV.unflatten(0, sizes), states_BNGKRV[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        grad_o_BNGCRV, grad_state_BGKRV = output_grads
        (
            q_MCK,
            k_MCK,
            v_MRCV,
            v_out_MCX,
            grown_MCR1,
            shrunk_MCR1,
            decay_MRCC,
            scores_M1CC,
            weights_MRCC,
            states_BNGKRV,
            starts_MKX,
            before_MCRV,
        ) = ctx.saved_tensors
        low, wide = q_MCK.dtype, grad_o_BNGCRV.dtype
        sizes, values = grad_o_BNGCRV.shape[:3], grad_o_BNGCRV.shape[4:]
        grad_o_MCRV = grad_o_BNGCRV.flatten(0, 2)
        grad_o_MRCV = grad_o_MCRV.transpose(1, 2).to(low).contiguous()
        grad_before_MCX = (grad_o_MCRV * grown_MCR1).to(low).flatten(2)
        grad_starts_MKX = torch.bmm(q_MCK.mT, grad_before_MCX).to(wide)
        grad_starts_BNGKRV = grad_starts_MKX.unflatten(-1, values).unflatten(0, sizes)
        factor_BNG1R1, grads_BNGKRV = (
            grown_MCR1[:, -1:].unflatten(0, sizes),
            torch.empty_like(states_BNGKRV),
        )
        grads_BNGKRV[:, -1] = grad_state_BGKRV
        for n in range(sizes[1] - 1, -1, -1):
            torch.addcmul(
                grad_starts_BNGKRV[:, n],
                factor_BNG1R1[:, n],
                grads_BNGKRV[:, n + 1],
                out=grads_BNGKRV[:, n],
            )
        starts_BNGKRV, after_BNGKRV = states_BNGKRV[:, :-1], grads_BNGKRV[:, 1:]
        after_MKX = after_BNGKRV.flatten(0, 2).to(low).flatten(2)
        grad_out_MCRV = torch.bmm(k_MCK, after_MKX).to(wide).unflatten(-1, values)  # of v_out
        grad_weights_MRCC = (grad_o_MRCV @ v_MRCV.mT) * decay_MRCC  # of scores, head by head
        mask_CC = lower_ones(q_MCK.shape[1], 0, low, q_MCK.device)
        grad_scores_MCC = grad_weights_MRCC.sum(1).to(low).mul_(mask_CC)
        grad_q_MCK = torch.bmm(grad_before_MCX, starts_MKX.mT) + torch.bmm(grad_scores_MCC, k_MCK)
        grad_k_MCK = torch.bmm(v_out_MCX, after_MKX.mT) + torch.bmm(grad_scores_MCC.mT, q_MCK)

        leaving_MCR = torch.linalg.vecdot(grad_out_MCRV, v_out_MCX.unflatten(-1, values).to(wide))
        inside_MRCC = grad_weights_MRCC.mul_(scores_M1CC)
        grad_total_MCR = torch.linalg.vecdot(grad_o_MCRV, before_MCRV) - leaving_MCR
        grad_total_MCR = grad_total_MCR + (inside_MRCC.sum(-1) - inside_MRCC.sum(-2)).mT
        carried_MR = (after_BNGKRV * starts_BNGKRV).sum((3, 5)).flatten(0, 2)
        grad_total_MCR[:, -1] += leaving_MCR.sum(1) + carried_MR * grown_MCR1[:, -1, :, 0]
        grad_g_MCR = grad_total_MCR.flip(1).cumsum(1).flip(1)
        grad_v_MCRV = grad_out_MCRV.mul_(shrunk_MCR1).add_(
            (weights_MRCC.mT @ grad_o_MRCV).transpose(1, 2)
        )
        grads = (x.unflatten(0, sizes) for x in (grad_q_MCK, grad_k_MCK, grad_v_MCRV, grad_g_MCR))
        return *grads, grads_BNGKRV[:, 0]


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


def ssd_scan_step(
    q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd_step` by inputs, time steps and decay rates."""
    return ssd_step(q_BGK, k_BGK, x_BHV * dt_BH.unsqueeze(-1), -dt_BH * rate_H, state_BHKV)
