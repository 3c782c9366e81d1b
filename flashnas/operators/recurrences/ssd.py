"""The state-space dual recurrence of Mamba2: one decay per head, keys and queries shared by groups of heads.

    S <- exp(g) S + k v^T;    o = S^T q           (C is q, B is k, dt x is v; arXiv 2405.21060)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.parts.numerics import LOG2_E
from flashnas.operators.recurrences.chunks import chunk_length, decay_differences_base2, lower_ones


def ssd_reference(q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token: S <- exp(g) S + k v^T;  o = S^T q (C is q, B is k, dt x is v). Returns (o_BTHV, final state)."""
    state, outputs = state_BHKV, []
    for t in range(q_BTGK.shape[1]):
        o, state = ssd_step(q_BTGK[:, t], k_BTGK[:, t], v_BTHV[:, t], g_BTH[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


def ssd_step(q_BGK: Tensor, k_BGK: Tensor, v_BHV: Tensor, g_BH: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state). Head h reads group h // (heads / groups)."""
    heads, groups = v_BHV.shape[1], k_BGK.shape[1]
    q_BGK, k_BGK = q_BGK.to(state_BHKV.dtype), k_BGK.to(state_BHKV.dtype)
    if groups == 1:
        q_BHK, k_BHK = (x.expand(-1, heads, -1) for x in (q_BGK, k_BGK))
    else:
        q_BHK, k_BHK = (x.repeat_interleave(heads // groups, 1) for x in (q_BGK, k_BGK))
    decayed = state_BHKV * g_BH.exp()[..., None, None]
    state_BHKV = decayed.addcmul_(k_BHK.unsqueeze(-1), v_BHV.unsqueeze(-2))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def ssd_chunked(q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor, state_BHKV: Tensor,
                chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks; returns (o_BTHV, final state).

    The R heads of one group share q and k, so their values and states stand side by side in one product:
    values [N, B*G, C, R, V], states [B*G, K, R, V].
    """
    batch, tokens, groups, key_dim = q_BTGK.shape
    heads, value_dim = v_BTHV.shape[2:]
    repeats, chunk = heads // groups, chunk or chunk_length(key_dim)
    padding = -tokens % chunk

    def cut(x: Tensor) -> Tensor:  # [B, T, G, ..] -> [B, N, G, C, ..], a view unless padded
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, padding)) if padding else x
        return x.unflatten(1, (-1, chunk)).transpose(2, 3)

    state = state_BHKV.unflatten(1, (groups, repeats)).transpose(2, 3)
    o, state = _SsdChunks.apply(cut(q_BTGK), cut(k_BTGK), cut(v_BTHV.unflatten(2, (groups, repeats))),
                                cut(g_BTH.unflatten(2, (groups, repeats))), state)
    o_BTHV = o.transpose(2, 3).reshape(batch, tokens + padding, heads, value_dim)[:, :tokens]
    return o_BTHV, state.transpose(2, 3).reshape(state_BHKV.shape)


class _SsdChunks(torch.autograd.Function):
    """q, k [B, N, G, C, K], v [B, N, G, C, R, V], g [B, N, G, C, R], state [B, G, K, R, V] -> (o as v, final state).

    Products run in the dtype of q and k; decays, sums and states in that of v. M below is N, B and G together.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        low, wide, sizes, values = q.dtype, v.dtype, v.shape[:3], v.shape[4:]
        q, k, v, total = (x.flatten(0, 2) for x in (q, k, v, g.cumsum(3).mul_(LOG2_E)))
        grown, shrunk = total.exp2().unsqueeze(-1), (total[:, -1:] - total).exp2_().unsqueeze(-1)  # [M, C, R, 1]
        decay = decay_differences_base2(total.mT, masked=False)  # [M, R, C, C]
        v_heads = v.transpose(1, 2).to(low).contiguous()
        mask = lower_ones(q.shape[1], 0, low, q.device)
        scores = torch.bmm(q, k.mT).mul_(mask).unsqueeze(1)
        weights = (scores * decay).to(low)
        v_out = (v * shrunk).to(low).flatten(2)
        update = torch.bmm(k.mT, v_out).to(wide).unflatten(-1, values).unflatten(0, sizes)
        factor = grown[:, -1:].unflatten(0, sizes)  # [B, N, G, 1, R, 1]
        states = update.new_empty(sizes[0], sizes[1] + 1, *update.shape[2:])  # before each chunk, and the final one
        states[:, 0] = state
        for n in range(sizes[1]):
            torch.addcmul(update[:, n], factor[:, n], states[:, n], out=states[:, n + 1])
        starts, state = states[:, :-1], states[:, -1]
        starts_low = starts.flatten(0, 2).to(low).flatten(2)  # [M, K, R V]
        before = torch.bmm(q, starts_low).to(wide).unflatten(-1, values).mul_(grown)
        o = before + (weights @ v_heads).transpose(1, 2)
        ctx.save_for_backward(q, k, v_heads, v_out, grown, shrunk, decay, scores, weights, states, starts_low, before)
        return o.unflatten(0, sizes), state.clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        grad_o, grad_state = output_grads
        q, k, v_heads, v_out, grown, shrunk, decay, scores, weights, states, starts_low, before = ctx.saved_tensors
        low, wide, sizes, values = q.dtype, grad_o.dtype, grad_o.shape[:3], grad_o.shape[4:]
        grad_o = grad_o.flatten(0, 2)
        grad_heads = grad_o.transpose(1, 2).to(low).contiguous()
        grad_before = (grad_o * grown).to(low).flatten(2)
        grad_starts = torch.bmm(q.mT, grad_before).to(wide).unflatten(-1, values).unflatten(0, sizes)
        factor, grads = grown[:, -1:].unflatten(0, sizes), torch.empty_like(states)
        grads[:, -1] = grad_state
        for n in range(sizes[1] - 1, -1, -1):
            torch.addcmul(grad_starts[:, n], factor[:, n], grads[:, n + 1], out=grads[:, n])
        starts, after = states[:, :-1], grads[:, 1:]
        after_low = after.flatten(0, 2).to(low).flatten(2)
        grad_out = torch.bmm(k, after_low).to(wide).unflatten(-1, values)  # of v_out
        grad_weights = (grad_heads @ v_heads.mT) * decay  # of scores, head by head
        grad_scores = grad_weights.sum(1).to(low).mul_(lower_ones(q.shape[1], 0, low, q.device))
        grad_q = torch.bmm(grad_before, starts_low.mT) + torch.bmm(grad_scores, k)
        grad_k = torch.bmm(v_out, after_low.mT) + torch.bmm(grad_scores.mT, q)

        leaving = torch.linalg.vecdot(grad_out, v_out.unflatten(-1, values).to(wide))  # [M, C, R]
        inside = grad_weights.mul_(scores)
        grad_total = torch.linalg.vecdot(grad_o, before) - leaving + (inside.sum(-1) - inside.sum(-2)).mT
        carried = (after * starts).sum((3, 5)).flatten(0, 2)
        grad_total[:, -1] += leaving.sum(1) + carried * grown[:, -1, :, 0]
        grad_g = grad_total.flip(1).cumsum(1).flip(1)
        grad_v = grad_out.mul_(shrunk).add_((weights.mT @ grad_heads).transpose(1, 2))
        return *(x.unflatten(0, sizes) for x in (grad_q, grad_k, grad_v, grad_g)), grads[:, 0]


def ssd_scan(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`ssd_chunked` by inputs, time steps and decay rates."""
    return ssd_chunked(q_BTGK, k_BTGK, x_BTHV * dt_BTH.unsqueeze(-1), -dt_BTH * rate_H, state_BHKV)


def ssd_scan_step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
                  state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`ssd_step` by inputs, time steps and decay rates."""
    return ssd_step(q_BGK, k_BGK, x_BHV * dt_BH.unsqueeze(-1), -dt_BH * rate_H, state_BHKV)
