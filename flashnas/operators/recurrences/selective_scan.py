"""The selective scan, the recurrence of Mamba: every channel and every state entry has a decay of its own.

    S_t[n, c] = exp(dt_t[c] A[n, c]) S_{t-1}[n, c] + B_t[n] u_t[c];    y_t[c] = sum_n C_t[n] S_t[n, c]

Shapes: B batch, T time, N state, C channels. A is negative and dt is not, so nothing grows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashnas.operators.parts.numerics import LOG2_E

CHUNK_ENTRIES = 1 << 17  # of all states of a chunk: what a chunk needs stays in a core's cache


def scan_reference(u_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token; returns (y_BTC, final state)."""
    state, outputs = state_BNC, []
    for t in range(u_BTC.shape[1]):
        y, state = scan_step(u_BTC[:, t], dt_BTC[:, t], a_NC, b_BTN[:, t], c_BTN[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def scan_step(u_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
              state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """One token: (y_BC, next state)."""
    update = b_BN.unsqueeze(-1) * u_BC.unsqueeze(-2)
    state_BNC = torch.addcmul(update, (dt_BC.unsqueeze(-2) * a_NC).exp(), state_BNC)
    return (c_BN.unsqueeze(-2) @ state_BNC).squeeze(-2), state_BNC


def selective_scan(u_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """The same a chunk of time at once; returns (y_BTC, final state).

    Keeps the states between chunks only and takes the gradients by going through the chunks once more, backwards.
    """
    times_first = (x.transpose(0, 1) for x in (u_BTC, dt_BTC, b_BTN, c_BTN))
    u, dt, b, c = (x.contiguous() for x in times_first)
    y_TBC, state = _SelectiveScan.apply(u, dt, a_NC.contiguous(), b, c, state_BNC)
    return y_TBC.transpose(0, 1), state


def scan_of_inputs(x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                   state_BNC: Tensor | None) -> tuple[Tensor, Tensor]:
    """`selective_scan` of u = dt x; from zero where no state is given."""
    if state_BNC is None:
        state_BNC = x_BTC.new_zeros(len(x_BTC), *a_NC.shape)
    return selective_scan(dt_BTC * x_BTC, dt_BTC, a_NC, b_BTN, c_BTN, state_BNC)


def scan_of_inputs_step(x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
                        state_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """`scan_step` of u = dt x."""
    return scan_step(dt_BC * x_BC, dt_BC, a_NC, b_BN, c_BN, state_BNC)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor,
                state: Tensor) -> tuple[Tensor, Tensor]:
        tokens, batch, _ = u.shape
        length = max(1, min(tokens, CHUNK_ENTRIES // (batch * a.numel())))
        starts = state.new_empty(-(-tokens // length), *state.shape)
        y, a_log2, room = torch.empty_like(u), a * LOG2_E, state.new_empty(2, length, *state.shape)
        for n, first in enumerate(range(0, tokens, length)):
            now = slice(first, first + length)
            starts[n] = state
            _, states = _chunk(u[now], dt[now], a_log2, b[now], starts[n], room)
            torch.bmm(_rows(c[now]), states.flatten(0, 1), out=_rows(y[now]))
            state = states[-1]
        ctx.save_for_backward(u, dt, a, b, c, starts)
        ctx.length = length
        return y, state.clone()

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor, ...]:
        u, dt, a, b, c, starts = ctx.saved_tensors
        grad_y, grad_state = output_grads[0].contiguous(), output_grads[1].clone()
        grad_u, grad_dt, grad_b, grad_c = (torch.empty_like(x) for x in (u, dt, b, c))
        grad_a, a_log2, room = torch.zeros_like(starts[0]), a * LOG2_E, a.new_empty(3, ctx.length, *starts.shape[1:])
        for n in range(len(starts) - 1, -1, -1):
            now = slice(n * ctx.length, (n + 1) * ctx.length)
            decay, states = _chunk(u[now], dt[now], a_log2, b[now], starts[n], room)
            # of the state after token t; what reaches the state before it is decay[t] grads[t]
            grads = torch.mul(c[now].unsqueeze(3), grad_y[now].unsqueeze(2), out=room[2, :len(states)])
            for grad, kept in zip(reversed(grads.unbind()), reversed(decay.unbind()), strict=True):
                grad += grad_state
                torch.mul(grad, kept, out=grad_state)
            flat = grads.flatten(0, 1)
            torch.bmm(_rows(b[now]), flat, out=_rows(grad_u[now]))
            torch.bmm(_rows(u[now]), flat.mT, out=_rows(grad_b[now]))
            torch.bmm(_rows(grad_y[now]), states.flatten(0, 1).mT, out=_rows(grad_c[now]))
            grads *= decay
            grads[0] *= starts[n]
            grads[1:] *= states[:-1]  # now of dt A
            for grad, step in zip(grads.unbind(), dt[now].unsqueeze(2).unbind(), strict=True):
                grad_a.addcmul_(grad, step)
            torch.sum(grads.mul_(a), 2, out=grad_dt[now])
        return grad_u, grad_dt, grad_a.sum(0), grad_b, grad_c, grad_state


def _rows(x_LBK: Tensor) -> Tensor:
    """[L, B, K] as a batch of rows [L * B, 1, K]."""
    return x_LBK.view(-1, 1, x_LBK.shape[2])


def _chunk(u: Tensor, dt: Tensor, a_log2: Tensor, b: Tensor, state: Tensor,
           room: Tensor) -> tuple[Tensor, Tensor]:
    """Decays, and the states after each token [L, B, N, C]; both lie in `room`."""
    decay, states = room[0, :len(u)], room[1, :len(u)]
    torch.mul(dt.unsqueeze(2), a_log2, out=decay).exp2_()  # three times as fast as exp_ on a CPU
    torch.mul(b.unsqueeze(3), u.unsqueeze(2), out=states)
    for now, kept in zip(states.unbind(), decay.unbind(), strict=True):
        state = now.addcmul_(kept, state)
    return decay, states
