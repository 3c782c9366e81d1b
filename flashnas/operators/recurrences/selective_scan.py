"""The selective scan, the recurrence of Mamba: every channel and every state entry has a decay of
its own.

    S_t[n, c] = exp(dt_t[c] A[n, c]) S_{t-1}[n, c] + B_t[n] u_t[c];    y_t[c] = sum_n C_t[n] S_t[n, c]
    u_t[c] = dt_t[c] x_t[c]

Shapes: B batch, T time, N state, C channels, K chunks, L tokens of a chunk. A is negative and dt is
not, therefore nothing grows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashnas.operators.parts import LOG2_E
from flashnas.operators.recurrences.chunks import token_by_token

CHUNK_ENTRIES = 1 << 17  # of all states of a chunk: what a chunk needs stays in a core's cache


def scan_reference(
    x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BNC: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token; returns (y_BTC, final state)."""

    def step(
        x_BC: Tensor, dt_BC: Tensor, b_BN: Tensor, c_BN: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return scan_step(x_BC, dt_BC, a_NC, b_BN, c_BN, state)

    return token_by_token(step, x_BTC, dt_BTC, b_BTN, c_BTN, state_BNC)


def scan_step(
    x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor, state_BNC: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: (y_BC, next state)."""
    update_BNC = b_BN.unsqueeze(-1) * (dt_BC * x_BC).unsqueeze(-2)
    state_BNC = torch.addcmul(update_BNC, (dt_BC.unsqueeze(-2) * a_NC).exp(), state_BNC)
    return (c_BN.unsqueeze(-2) @ state_BNC).squeeze(-2), state_BNC


def selective_scan(
    x_BTC: Tensor,
    dt_BTC: Tensor,
    a_NC: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BNC: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Many tokens, a chunk of time at once, from zero where no state is given; returns (y_BTC, final
    state).

    Keeps the states between chunks only and takes the gradients by going through the chunks once
    more, backwards.
    """
    if state_BNC is None:
        state_BNC = dt_BTC.new_zeros(len(x_BTC), *a_NC.shape)
    times_first = (x.transpose(0, 1) for x in (dt_BTC * x_BTC, dt_BTC, b_BTN, c_BTN))
    u_TBC, dt_TBC, b_TBN, c_TBN = (x.contiguous() for x in times_first)
    y_TBC, state_BNC = _SelectiveScan.apply(
        u_TBC, dt_TBC, a_NC.contiguous(), b_TBN, c_TBN, state_BNC
    )
    return y_TBC.transpose(0, 1), state_BNC


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u_TBC: Tensor,
        dt_TBC: Tensor,
        a_NC: Tensor,
        b_TBN: Tensor,
        c_TBN: Tensor,
        state_BNC: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tokens, batch, _ = u_TBC.shape
        length = max(1, min(tokens, CHUNK_ENTRIES // (batch * a_NC.numel())))
        starts_KBNC = state_BNC.new_empty(-(-tokens // length), *state_BNC.shape)
        y_TBC, chunk = torch.empty_like(u_TBC), _Chunk(length, state_BNC)
        for n, first in enumerate(range(0, tokens, length)):
            now = slice(first, first + length)
            starts_KBNC[n] = state_BNC
            _, states_LBNC = chunk.states(u_TBC[now], dt_TBC[now], a_NC, b_TBN[now], starts_KBNC[n])
            torch.bmm(_rows(c_TBN[now]), states_LBNC.flatten(0, 1), out=_rows(y_TBC[now]))
            state_BNC = states_LBNC[-1]
        ctx.save_for_backward(u_TBC, dt_TBC, a_NC, b_TBN, c_TBN, starts_KBNC)
        ctx.length = length
        return y_TBC, state_BNC.clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        u_TBC, dt_TBC, a_NC, b_TBN, c_TBN, starts_KBNC = ctx.saved_tensors
        grad_y_TBC, grad_state_BNC = output_grads[0].contiguous(), output_grads[1].clone()
        grad_u_TBC, grad_dt_TBC, grad_b_TBN, grad_c_TBN = (
            torch.empty_like(x) for x in (u_TBC, dt_TBC, b_TBN, c_TBN)
        )
        grad_a_NC, chunk = torch.zeros_like(a_NC), _Chunk(ctx.length, starts_KBNC[0])
        for n in range(len(starts_KBNC) - 1, -1, -1):
            now = slice(n * ctx.length, (n + 1) * ctx.length)
            decay_LBNC, states_LBNC = chunk.states(
                u_TBC[now], dt_TBC[now], a_NC, b_TBN[now], starts_KBNC[n]
            )
            # of the state after token t; what reaches the state before it is decay[t] grads[t]
            grads_LBNC, grads, decays = (
                chunk.grads_LBNC[: len(states_LBNC)],
                chunk.grads,
                chunk.decays,
            )
            torch.mul(c_TBN[now].unsqueeze(3), grad_y_TBC[now].unsqueeze(2), out=grads_LBNC)
            grads_LBNC[-1] += grad_state_BNC
            for t in range(len(grads_LBNC) - 1, 0, -1):
                grads[t - 1].addcmul_(grads[t], decays[t])
            grad_state_BNC = grads[0] * decays[0]
            flat = grads_LBNC.flatten(0, 1)
            torch.bmm(_rows(b_TBN[now]), flat, out=_rows(grad_u_TBC[now]))
            torch.bmm(_rows(u_TBC[now]), flat.mT, out=_rows(grad_b_TBN[now]))
            torch.bmm(
                _rows(grad_y_TBC[now]), states_LBNC.flatten(0, 1).mT, out=_rows(grad_c_TBN[now])
            )
            grads_LBNC *= decay_LBNC
            grads_LBNC[0] *= starts_KBNC[n]
            grads_LBNC[1:] *= states_LBNC[:-1]  # now of dt A
            grad_a_NC += torch.mul(grads_LBNC, dt_TBC[now].unsqueeze(2), out=decay_LBNC).sum((0, 1))
            torch.sum(grads_LBNC.mul_(a_NC), 2, out=grad_dt_TBC[now])
        return grad_u_TBC, grad_dt_TBC, grad_a_NC, grad_b_TBN, grad_c_TBN, grad_state_BNC


class _Chunk:
    """Room for the decays, states and gradients of a chunk [L, B, N, C], and views of each token's,
    which take longer to make than small states to compute."""

    def __init__(self, length: int, state_BNC: Tensor) -> None:
        self.decay_LBNC, self.states_LBNC, self.grads_LBNC = state_BNC.new_empty(
            3, length, *state_BNC.shape
        )
        self.decays, self._states, self.grads = (
            room.unbind() for room in (self.decay_LBNC, self.states_LBNC, self.grads_LBNC)
        )

    def states(
        self, u_LBC: Tensor, dt_LBC: Tensor, a_NC: Tensor, b_LBN: Tensor, state_BNC: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decays, and the states after each token."""
        tokens = len(u_LBC)
        decay_LBNC, states_LBNC = self.decay_LBNC[:tokens], self.states_LBNC[:tokens]
        # exp2_ is three times as fast as exp_ on a CPU
        torch.mul(dt_LBC.unsqueeze(2), a_NC * LOG2_E, out=decay_LBNC).exp2_()
        torch.mul(b_LBN.unsqueeze(3), u_LBC.unsqueeze(2), out=states_LBNC)
        for t in range(tokens):
            state_BNC = self._states[t].addcmul_(self.decays[t], state_BNC)
        return decay_LBNC, states_LBNC


def _rows(x_LBK: Tensor) -> Tensor:
    """[L, B, K] as a batch of rows [L * B, 1, K]."""
    return x_LBK.view(-1, 1, x_LBK.shape[2])
