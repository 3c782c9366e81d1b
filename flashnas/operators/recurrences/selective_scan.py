"""The selective scan, the recurrence of Mamba: every channel and every state entry has a decay of
its own.

    S_t[n, c] = exp(dt_t[c] A[n, c]) S_{t-1}[n, c] + B_t[n] u_t[c];    y_t[c] = sum_n C_t[n] S_t[n, c]
    u_t[c] = dt_t[c] x_t[c]

Shapes: B batch, T time, N state, C channels, K chunks, L tokens of a chunk. A is negative and dt is
not, therefore nothing grows.
"""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flashnas.operators.parts import LOG2_E
from flashnas.operators.recurrences.chunks import faded, scan, with_outer

CHUNK_ENTRIES = 1 << 18  # of all states of a chunk: 1 MB in float32


def scan_reference(
    x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BNC: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token, as the formula says; returns (y_BTC, final state)."""
    outputs = []
    for t in range(x_BTC.shape[1]):
        decay_BNC = (dt_BTC[:, t, None] * a_NC).exp()
        update_BNC = torch.einsum("bn,bc->bnc", b_BTN[:, t], dt_BTC[:, t] * x_BTC[:, t])
        state_BNC = decay_BNC * state_BNC + update_BNC
        outputs.append(torch.einsum("bn,bnc->bc", c_BTN[:, t], state_BNC))
    return torch.stack(outputs, 1), state_BNC


def scan_step(
    x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor, state_BNC: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: (y_BC, next state)."""
    state_BNC = faded(state_BNC, (dt_BC.unsqueeze(-2) * a_NC).exp())
    state_BNC = with_outer(state_BNC, b_BN, dt_BC * x_BC)
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

    Keeps the states between chunks only: the backward pass computes those of a chunk once more.
    """
    if state_BNC is None:
        state_BNC = dt_BTC.new_zeros(len(x_BTC), *a_NC.shape)
    again = partial(checkpoint, _chunk, use_reentrant=False, preserve_rng_state=False)
    run = again if torch.is_grad_enabled() else _chunk
    length = max(1, CHUNK_ENTRIES // state_BNC.numel())
    outputs = []
    for x_BLC, dt_BLC, b_BLN, c_BLN in zip(
        *(x.split(length, 1) for x in (x_BTC, dt_BTC, b_BTN, c_BTN)), strict=True
    ):
        y_BLC, state_BNC = run(a_NC, x_BLC, dt_BLC, b_BLN, c_BLN, state_BNC)
        outputs.append(y_BLC)
    return torch.cat(outputs, 1), state_BNC


def _chunk(
    a_NC: Tensor, x_BLC: Tensor, dt_BLC: Tensor, b_BLN: Tensor, c_BLN: Tensor, state_BNC: Tensor
) -> tuple[Tensor, Tensor]:
    u_LBC, dt_LBC, b_LBN, c_LBN = (
        x.transpose(0, 1) for x in (dt_BLC * x_BLC, dt_BLC, b_BLN, c_BLN)
    )
    # exp2 is three times as fast as exp on a CPU
    decay_LBNC = (dt_LBC.unsqueeze(2) * (a_NC * LOG2_E)).exp2_()
    update_LBNC = b_LBN.unsqueeze(3) * u_LBC.unsqueeze(2)
    starts_LBNC, state_BNC = scan(decay_LBNC, update_LBNC, state_BNC)
    states_LBNC = torch.cat([starts_LBNC[1:], state_BNC.unsqueeze(0)])
    y_LBC = (c_LBN.unsqueeze(2) @ states_LBNC).squeeze(2)
    return y_LBC.transpose(0, 1), state_BNC
