"""Chunked recurrences: cutting time into chunks, carrying matrix states from chunk to chunk,
solving with I + L.

Tensors of a recurrence are laid out chunks first, [N, B*H, C, dim]. Each chunk is then one
contiguous batch of matrices, and all chunks together are one batch too. In the names of tensors P
is B and H together.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.parts import LOG2_E, cached_table

# of a chunk: exp(64) = 6e27 times any key fits into float32, exp(-64) keeps all its digits
MAX_DECAY = 64.0


def faded(state_BHKV: Tensor, factor: Tensor) -> Tensor:
    """A state times what is kept of it. Without gradients it is written over, as by the kernels of
    libraries, so that a step moves no more than it must."""
    return state_BHKV * factor if torch.is_grad_enabled() else state_BHKV.mul_(factor)


def with_outer(state_BHKV: Tensor, k_BHK: Tensor, v_BHV: Tensor) -> Tensor:
    """S + k v^T, in place as `faded`."""
    k_BHK1, v_BH1V = k_BHK.unsqueeze(-1), v_BHV.unsqueeze(-2)
    if torch.is_grad_enabled():
        return torch.addcmul(state_BHKV, k_BHK1, v_BH1V)
    return state_BHKV.addcmul_(k_BHK1, v_BH1V)


def chunk_length(key_dim: int, most: int = 64) -> int:
    """The power of two near the key dimension, where products inside and between chunks cost alike;
    at least 16."""
    return min(most, max(16, 1 << (key_dim - 1).bit_length()))


def to_chunks(x_BTHK: Tensor, chunk: int) -> Tensor:
    """[B, T, H, K] -> [N, B*H, chunk, K], padded with zeros."""
    batch, tokens, heads, dim = x_BTHK.shape
    count = -(-tokens // chunk)
    if count * chunk != tokens:
        x_BTHK = F.pad(x_BTHK, (0, 0, 0, 0, 0, count * chunk - tokens))
    x_NBHCK = x_BTHK.reshape(batch, count, chunk, heads, dim).permute(1, 0, 3, 2, 4)
    return x_NBHCK.reshape(count, batch * heads, chunk, dim)


def from_chunks(y_NPCV: Tensor, batch: int, tokens: int) -> Tensor:
    """[N, B*H, chunk, V] -> [B, T, H, V], the padding cut off."""
    count, batch_heads, chunk, dim = y_NPCV.shape
    y_BNCHV = y_NPCV.view(count, batch, batch_heads // batch, chunk, dim).permute(1, 0, 3, 2, 4)
    y_BTHV = y_BNCHV.reshape(batch, count * chunk, batch_heads // batch, dim)
    return y_BTHV if tokens == count * chunk else y_BTHV[:, :tokens]


class _Scan(torch.autograd.Function):
    """state[n + 1] = factor[n] (*) state[n] + update[n], where (*) is a product of matrices or of
    entries.
    """

    @staticmethod
    def forward(
        ctx: Any, factor: Tensor, update: Tensor, state: Tensor, matrix: bool
    ) -> tuple[Tensor, Tensor]:
        advance = _ADVANCE[matrix]
        states = update.new_empty(len(update) + 1, *update.shape[1:])
        states[0] = state
        for n in range(len(update)):
            advance(update[n], factor[n], states[n], out=states[n + 1])
        ctx.save_for_backward(factor, states)
        ctx.matrix = matrix
        return states[:-1], states[-1].clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (factor, states), (grad_starts, grad_final) = ctx.saved_tensors, output_grads
        advance = _ADVANCE[ctx.matrix]
        moved = factor.mT if ctx.matrix else factor
        grads = torch.empty_like(states)  # of each state as a whole
        grads[-1] = grad_final
        for n in range(len(grad_starts) - 1, -1, -1):
            advance(grad_starts[n], moved[n], grads[n + 1], out=grads[n])
        of_factor = (
            grads[1:] @ states[:-1].mT
            if ctx.matrix
            else (grads[1:] * states[:-1]).sum_to_size(factor.shape)
        )
        return of_factor, grads[1:], grads[0], None


# update + factor (*) state
_ADVANCE: dict[bool, Callable[..., Tensor]] = {False: torch.addcmul, True: torch.baddbmm}


def scan(
    factor: Tensor, update: Tensor, state: Tensor, *, matrix: bool = False
) -> tuple[Tensor, Tensor]:
    """state <- factor * state + update over the first dimension, or, of matrices, factor @ state +
    update: (states before each update, final state)."""
    return _Scan.apply(factor, update, state, matrix)


def solve_unit_lower(lower: Tensor, right: Tensor) -> Tensor:
    """(I + lower)^-1 right for strictly lower triangular matrices [..., C, C] and [..., C, X]; the
    product is in the dtype of `right`."""
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    inverse = torch.linalg.solve_triangular(
        lower, eye.expand_as(lower), upper=False, unitriangular=True
    )
    return inverse.to(right.dtype) @ right


def decayed(total_MRC: Tensor, *scores_MCC: Tensor) -> tuple[Tensor, ...]:
    """scores x exp(total_i - total_j) for j <= i, else 0: [M, R, C, C] of each. M is a batch, R
    heads that share scores; no exponent is positive where log decays are negative."""
    difference_MRCC = total_MRC.unsqueeze(-1) - total_MRC.unsqueeze(-2)
    # exp2 takes a third of the time of exp on a CPU, and a tenth where exp is given -inf
    decay_MRCC = (difference_MRCC * LOG2_E).clamp(max=0).exp2()
    ones_CC = lower_ones(total_MRC.shape[-1], 0, total_MRC.dtype, total_MRC.device)
    decay_MRCC = decay_MRCC * ones_CC
    return tuple((scores.unsqueeze(1) * decay_MRCC).to(scores.dtype) for scores in scores_MCC)


def steep(total: Tensor) -> bool:
    """Whether the exponential of minus a cumulated log decay could overflow. True on other devices
    than a CPU: the look would make the host wait, which a CUDA graph cannot hold."""
    return not total.is_cpu or bool(total.detach().amin() <= -MAX_DECAY)


def scores_by_halves(readers_RCK: Tensor, writers_WCK: Tensor, total_CK: Tensor) -> Tensor:
    """What readers read of writers under decay per key channel: sum_k r_ik w_jk exp(G_ik - G_jk),
    with G the cumulated log decay `total`; zero where the writer's token is the later one.

    By halves: every right half against its left half with the boundary between them as reference,
    so that all factors are exponentials of numbers <= 0; the halves of the halves follow, down to
    single tokens. Returns [.., R, C, W, C]. L is half of C; leading dimensions are not named.
    """
    size = readers_RCK.shape[-2]
    if size == readers_RCK.shape[-3] == writers_WCK.shape[-3] == 1:  # in half the time of products
        return (readers_RCK * writers_WCK).sum(-1, keepdim=True).unsqueeze(-1)
    if size == 1:
        return (readers_RCK.squeeze(-2) @ writers_WCK.squeeze(-2).mT)[..., :, None, :, None]
    half = size // 2
    boundary_1K = total_CK[..., half - 1 : half, :]
    right_RLK = readers_RCK[..., half:, :] * (
        total_CK[..., half:, :] - boundary_1K
    ).exp().unsqueeze(-3)
    left_WLK = writers_WCK[..., :half, :] * (boundary_1K - total_CK[..., :half, :]).exp().unsqueeze(
        -3
    )
    below = right_RLK.flatten(-3, -2) @ left_WLK.flatten(-3, -2).mT
    below_RLWL = below.unflatten(-1, (-1, half)).unflatten(-3, (-1, half))
    readers_2RLK, writers_2WLK = (
        x.unflatten(-2, (2, half)).transpose(-4, -3) for x in (readers_RCK, writers_WCK)
    )
    first_RLWL, second_RLWL = scores_by_halves(
        readers_2RLK, writers_2WLK, total_CK.unflatten(-2, (2, half))
    ).unbind(-5)
    top_RLWC = torch.cat([first_RLWL, torch.zeros_like(first_RLWL)], -1)
    return torch.cat([top_RLWC, torch.cat([below_RLWL, second_RLWL], -1)], -3)


def decayed_products(
    readers_NPRCK: Tensor, writers_NPWCK: Tensor, g_NPCK: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What R readers read of W writers of the same chunk under decay per key channel.

    Args:
        readers_NPRCK, writers_NPWCK: queries and keys.
        g_NPCK: log decays.

    Returns:
        Scores [N, P, R C, W C], which mean nothing where the writer's token is the later one; readers
        of the state before the chunk; writers into the state behind it; the decay of a chunk.
    """
    total_NPCK = g_NPCK.cumsum(2)
    halves = steep(total_NPCK)
    # what is left after exp(-MAX_DECAY) is nothing; shorter sums keep the digits of the decays
    # beside it
    if halves:
        total_NPCK = g_NPCK.clamp(min=-MAX_DECAY).cumsum(2)
    grown_NPCK = total_NPCK.exp()
    last_NP1K = grown_NPCK[:, :, -1:]
    grown_readers_NPRCK = readers_NPRCK * grown_NPCK.unsqueeze(2)
    if halves:
        scores = (
            scores_by_halves(readers_NPRCK, writers_NPWCK, total_NPCK).flatten(-2).flatten(-3, -2)
        )
        out_NPWCK = writers_NPWCK * (total_NPCK[:, :, -1:] - total_NPCK).exp().unsqueeze(2)
    else:
        shrunk_writers_NPWCK = writers_NPWCK * (-total_NPCK).exp().unsqueeze(2)
        scores = grown_readers_NPRCK.flatten(2, 3) @ shrunk_writers_NPWCK.flatten(2, 3).mT
        out_NPWCK = shrunk_writers_NPWCK * last_NP1K.unsqueeze(2)
    return scores, grown_readers_NPRCK, out_NPWCK, last_NP1K


@cached_table
def lower_ones(size: int, diagonal: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones on and below that diagonal; multiplying by it is several times faster than tril on small
    matrices.
    """
    return torch.ones(size, size, dtype=dtype, device=device).tril_(diagonal)
