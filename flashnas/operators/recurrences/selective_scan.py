"""The selective scan, the recurrence of Mamba: every channel and every state entry has a decay of its own.

    S_t[n, c] = exp(dt_t[c] A[n, c]) S_{t-1}[n, c] + B_t[n] u_t[c];    y_t[c] = sum_n C_t[n] S_t[n, c]

Shapes: B batch, T time, N state, C channels, K chunks, L tokens of a chunk. A is negative and dt is not,
therefore nothing grows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashnas.operators.parts.numerics import LOG2_E
from flashnas.operators.recurrences.chunks import token_by_token

CHUNK_ENTRIES = 1 << 17  # of all states of a chunk: what a chunk needs stays in a core's cache


def scan_reference(u_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; returns (y_BTC, final state)."""
    def step(u_BC: Tensor, dt_BC: Tensor, b_BN: Tensor, c_BN: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return scan_step(u_BC, dt_BC, a_NC, b_BN, c_BN, state)

    return token_by_token(step, u_BTC, dt_BTC, b_BTN, c_BTN, state=state_BNC)


def scan_step(u_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
              state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (y_BC, next state)."""
    update_BNC = b_BN.unsqueeze(-1) * u_BC.unsqueeze(-2)
    state_BNC = torch.addcmul(update_BNC, (dt_BC.unsqueeze(-2) * a_NC).exp(), state_BNC)
    return (c_BN.unsqueeze(-2) @ state_BNC).squeeze(-2), state_BNC


def selective_scan(u_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """The same a chunk of time at once; returns (y_BTC, final state).

    Keeps the states between chunks only and takes the gradients by going through the chunks once more,
    backwards.
    """
    times_first = (x.transpose(0, 1) for x in (u_BTC, dt_BTC, b_BTN, c_BTN))
    u_TBC, dt_TBC, b_TBN, c_TBN = (x.contiguous() for x in times_first)
    y_TBC, state_BNC = _SelectiveScan.apply(u_TBC, dt_TBC, a_NC.contiguous(), b_TBN, c_TBN, state_BNC)
    return y_TBC.transpose(0, 1), state_BNC


def scan_of_inputs(x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor | None) -> tuple[Tensor, Tensor]:
    """`selective_scan` of u = dt x; from zero where no state is given."""
    if state_BNC is None:
        state_BNC = dt_BTC.new_zeros(len(x_BTC), *a_NC.shape)
    return selective_scan(dt_BTC * x_BTC, dt_BTC, a_NC, b_BTN, c_BTN, state_BNC)


def scan_of_inputs_step(x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
                        state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """`scan_step` of u = dt x."""
    return scan_step(dt_BC * x_BC, dt_BC, a_NC, b_BN, c_BN, state_BNC)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_TBC: Tensor, dt_TBC: Tensor, a_NC: Tensor, b_TBN: Tensor, c_TBN: Tensor,
                state_BNC: Tensor) -> tuple[Tensor, Tensor]:
        tokens, batch, _ = u_TBC.shape
        length = max(1, min(tokens, CHUNK_ENTRIES // (batch * a_NC.numel())))
        starts_KBNC = state_BNC.new_empty(-(-tokens // length), *state_BNC.shape)
        y_TBC, a_log2_NC = torch.empty_like(u_TBC), a_NC * LOG2_E
        room = state_BNC.new_empty(2, length, *state_BNC.shape)
        for n, first in enumerate(range(0, tokens, length)):
            now = slice(first, first + length)
            starts_KBNC[n] = state_BNC
            _, states_LBNC = _chunk(u_TBC[now], dt_TBC[now], a_log2_NC, b_TBN[now], starts_KBNC[n], room)
            torch.bmm(_rows(c_TBN[now]), states_LBNC.flatten(0, 1), out=_rows(y_TBC[now]))
            state_BNC = states_LBNC[-1]
        ctx.save_for_backward(u_TBC, dt_TBC, a_NC, b_TBN, c_TBN, starts_KBNC)
        ctx.length = length
        return y_TBC, state_BNC.clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        u_TBC, dt_TBC, a_NC, b_TBN, c_TBN, starts_KBNC = ctx.saved_tensors
        grad_y_TBC, grad_state_BNC = output_grads[0].contiguous(), output_grads[1].clone()
        grad_u_TBC, grad_dt_TBC, grad_b_TBN, grad_c_TBN = (torch.empty_like(x)
                                                           for x in (u_TBC, dt_TBC, b_TBN, c_TBN))
        grad_a_BNC, a_log2_NC = torch.zeros_like(starts_KBNC[0]), a_NC * LOG2_E
        room = a_NC.new_empty(3, ctx.length, *starts_KBNC.shape[1:])
        for n in range(len(starts_KBNC) - 1, -1, -1):
            now = slice(n * ctx.length, (n + 1) * ctx.length)
            decay_LBNC, states_LBNC = _chunk(u_TBC[now], dt_TBC[now], a_log2_NC, b_TBN[now], starts_KBNC[n],
                                             room)
            # of the state after token t; what reaches the state before it is decay[t] grads[t]
            grads_LBNC = room[2, :len(states_LBNC)]
            torch.mul(c_TBN[now].unsqueeze(3), grad_y_TBC[now].unsqueeze(2), out=grads_LBNC)
            for grad_BNC, kept_BNC in zip(reversed(grads_LBNC.unbind()), reversed(decay_LBNC.unbind()),
                                          strict=True):
                grad_BNC += grad_state_BNC
                torch.mul(grad_BNC, kept_BNC, out=grad_state_BNC)
            flat = grads_LBNC.flatten(0, 1)
            torch.bmm(_rows(b_TBN[now]), flat, out=_rows(grad_u_TBC[now]))
            torch.bmm(_rows(u_TBC[now]), flat.mT, out=_rows(grad_b_TBN[now]))
            torch.bmm(_rows(grad_y_TBC[now]), states_LBNC.flatten(0, 1).mT, out=_rows(grad_c_TBN[now]))
            grads_LBNC *= decay_LBNC
            grads_LBNC[0] *= starts_KBNC[n]
            grads_LBNC[1:] *= states_LBNC[:-1]  # now of dt A
            for grad_BNC, step_B1C in zip(grads_LBNC.unbind(), dt_TBC[now].unsqueeze(2).unbind(),
                                          strict=True):
                grad_a_BNC.addcmul_(grad_BNC, step_B1C)
            torch.sum(grads_LBNC.mul_(a_NC), 2, out=grad_dt_TBC[now])
        return grad_u_TBC, grad_dt_TBC, grad_a_BNC.sum(0), grad_b_TBN, grad_c_TBN, grad_state_BNC


def _rows(x_LBK: Tensor) -> Tensor:
    """[L, B, K] as a batch of rows [L * B, 1, K]."""
    return x_LBK.view(-1, 1, x_LBK.shape[2])


def _chunk(u_LBC: Tensor, dt_LBC: Tensor, a_log2_NC: Tensor, b_LBN: Tensor, state_BNC: Tensor,
           room: Tensor) -> tuple[Tensor, Tensor]:
    """Decays, and the states after each token [L, B, N, C]; both lie in `room`."""
    decay_LBNC, states_LBNC = room[0, :len(u_LBC)], room[1, :len(u_LBC)]
    torch.mul(dt_LBC.unsqueeze(2), a_log2_NC, out=decay_LBNC).exp2_()  # three times as fast as exp_ on a CPU
    torch.mul(b_LBN.unsqueeze(3), u_LBC.unsqueeze(2), out=states_LBNC)
    for now_BNC, kept_BNC in zip(states_LBNC.unbind(), decay_LBNC.unbind(), strict=True):
        state_BNC = now_BNC.addcmul_(kept_BNC, state_BNC)
    return decay_LBNC, states_LBNC
