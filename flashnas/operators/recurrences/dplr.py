"""The recurrence with a diagonal plus low-rank transition, which RWKV7 and Kimi delta attention share.

    S <- diag(exp(g)) S;  S <- S + b (S^T a)^T + k v^T;  o = S^T q          arXiv 2503.14456, 2510.26692

a reads the state after the decay. Without b the same vector k writes both: S <- S + k (v + S^T a)^T, the delta rule
with a decay per key channel for a = -k.

In a chunk that starts at state S, with G the cumulated log decay and the marks ^ for exp(G) x and ~ for exp(-G) x,
what a reads at all its tokens is p = (I - strict_lower(a^ b~^T))^-1 (a^ S + strict_lower(a^ k~^T) v) = P S + R, and
    o = q^ S + lower(q^ b~^T) p + lower(q^ k~^T) v;   S' = exp(G_C) (S + b~^T p + k~^T v) = transition S + update,
so that only `transition S + update` runs chunk by chunk. exp(-G) is taken only where it stays below exp(MOST_DECAY);
a chunk with more decay takes its scores by halves, every right half against its left half with the boundary between
them as reference, so that all factors are exponentials of numbers <= 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flashnas.operators.recurrences.chunks import (
    chunk_length,
    from_chunks,
    lower_ones,
    matrix_scan,
    to_chunks,
    unit_lower_inverse,
)

DplrRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor], tuple[Tensor, Tensor]]
MOST_CHUNK = 32
MOST_DECAY = 64.0  # of a chunk: exp(64) = 6e27 times any key fits into float32, exp(-64) keeps all its digits


def dplr_reference(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, a_BTHK: Tensor, b_BTHK: Tensor | None,
                   g_BTHK: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; g: log decay per key channel. Returns (o_BTHV, final state)."""
    state, outputs = state_BHKV, []
    for t in range(q_BTHK.shape[1]):
        o, state = dplr_step(q_BTHK[:, t], k_BTHK[:, t], v_BTHV[:, t], a_BTHK[:, t],
                             None if b_BTHK is None else b_BTHK[:, t], g_BTHK[:, t], state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


def dplr_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, a_BHK: Tensor, b_BHK: Tensor | None, g_BHK: Tensor,
              state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (o_BHV, next state)."""
    state_BHKV = state_BHKV * g_BHK.exp().unsqueeze(-1)
    read = a_BHK.unsqueeze(-2) @ state_BHKV  # [B, H, 1, V]
    value = v_BHV.unsqueeze(-2)
    if b_BHK is None:
        state_BHKV = state_BHKV + k_BHK.unsqueeze(-1) * (value + read)
    else:
        state_BHKV = state_BHKV + b_BHK.unsqueeze(-1) * read + k_BHK.unsqueeze(-1) * value
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV


def dplr_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, a_BTHK: Tensor, b_BTHK: Tensor | None,
                 g_BTHK: Tensor, state_BHKV: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in chunks, all in the state's dtype; `chunk` is a power of two. Returns (o_BTHV, final state)."""
    batch, tokens, _, key_dim = q_BTHK.shape
    sizes = [key_dim, v_BTHV.shape[-1]]
    chunk = chunk or chunk_length(key_dim, MOST_CHUNK)
    readers = torch.stack([to_chunks(q_BTHK, chunk), to_chunks(a_BTHK, chunk)], 2)  # [N, B*H, 2, C, K]
    written = [k_BTHK] if b_BTHK is None else [b_BTHK, k_BTHK]
    writers = torch.stack([to_chunks(x, chunk) for x in written], 2)
    v = to_chunks(v_BTHV, chunk)
    g = to_chunks(g_BTHK, chunk)
    total = g.cumsum(2)
    steep = bool(total.detach().amin() <= -MOST_DECAY)
    if steep:  # what is left after exp(-MOST_DECAY) is nothing; shorter sums keep the digits of the decays beside it
        total = g.clamp(min=-MOST_DECAY).cumsum(2)
    grown = total.exp()
    last = grown[:, :, -1:]
    grown_readers = readers * grown.unsqueeze(2)
    if steep:
        scores = _scores_by_halves(readers, writers, total).flatten(-2).flatten(-3, -2)
        out = writers * (total[:, :, -1:] - total).exp().unsqueeze(2)
    else:
        shrunk_writers = writers * (-total).exp().unsqueeze(2)
        scores = grown_readers.flatten(2, 3) @ shrunk_writers.flatten(2, 3).mT
        out = shrunk_writers * last.unsqueeze(2)
    mask = torch.cat([lower_ones(chunk, diagonal, v.dtype, v.device) for diagonal in (0, -1)])
    seen, read = (scores * mask.repeat(1, len(written))).chunk(2, -2)  # by q, by a
    effect = torch.cat([seen, out.flatten(2, 3).mT], -2)  # of what is written, on outputs and final state
    q, a = grown_readers.unbind(2)
    if b_BTHK is None:
        both = effect @ (unit_lower_inverse(-read) @ torch.cat([a, v], -1))
        on_state, fixed = both.split(sizes, -1)
    else:
        (read_b, read_k), (effect_b, effect_k) = read.chunk(2, -1), effect.chunk(2, -1)
        both = effect_b @ (unit_lower_inverse(-read_b) @ torch.cat([a, read_k @ v], -1))
        on_state, fixed = both.split(sizes, -1)
        fixed = fixed + effect_k @ v
    (seen_state, moved), (inside, update) = (x.split([chunk, key_dim], -2) for x in (on_state, fixed))
    starts, state = matrix_scan(moved + torch.diag_embed(last.squeeze(2)), update, state_BHKV.flatten(0, 1))
    o = inside + (q + seen_state) @ starts
    return from_chunks(o, batch, tokens), state.view_as(state_BHKV)


def kda_chunked(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g_BTHK: Tensor,
                state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_chunked` of the delta rule at rate beta."""
    return dplr_chunked(q_BTHK, k_BTHK * beta_BTH.unsqueeze(-1), v_BTHV, -k_BTHK, None, g_BTHK, state_BHKV)


def kda_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g_BHK: Tensor,
             state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_step` of the delta rule at rate beta."""
    return dplr_step(q_BHK, k_BHK * beta_BH.unsqueeze(-1), v_BHV, -k_BHK, None, g_BHK, state_BHKV)


def _scores_by_halves(readers: Tensor, writers: Tensor, total: Tensor) -> Tensor:
    """[.., R, C, K], [.., W, C, K], [.., C, K] -> [.., R, C, W, C], zero where the writer's token is the later one."""
    size = readers.shape[-2]
    if size == 1:
        return (readers.squeeze(-2) @ writers.squeeze(-2).mT)[..., :, None, :, None]
    half = size // 2
    boundary = total[..., half - 1:half, :]
    right = readers[..., half:, :] * (total[..., half:, :] - boundary).exp().unsqueeze(-3)
    left = writers[..., :half, :] * (boundary - total[..., :half, :]).exp().unsqueeze(-3)
    below = right.flatten(-3, -2) @ left.flatten(-3, -2).mT
    below = below.unflatten(-1, (-1, half)).unflatten(-3, (-1, half))  # [.., R, C / 2, W, C / 2]
    readers, writers = (x.unflatten(-2, (2, half)).transpose(-4, -3) for x in (readers, writers))
    first, second = _scores_by_halves(readers, writers, total.unflatten(-2, (2, half))).unbind(-5)
    top = torch.cat([first, torch.zeros_like(first)], -1)
    return torch.cat([top, torch.cat([below, second], -1)], -3)
