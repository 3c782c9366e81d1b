"""mamba-ssm, 2.3 or later: the scans of Mamba and Mamba2.

Their states are [B, H, V, K], transposed to ours; C, B, x, dt of the papers are our q, k, x, dt.
Source: the docstrings of mamba_ssm/ops/triton/{ssd_combined,selective_state_update}.py,
github.com/state-spaces/mamba.
"""

import torch
from torch import Tensor

from flashnas.operators.backends.library import Library, Pair, Sizes, importable
from flashnas.operators.recurrences import selective_scan as recurrence

CHUNK = 256
MAX_STATE = 256


def ssd(dtype: torch.dtype) -> Pair:
    """`ssd_scan` and `ssd_scan_step`; steps write into the state."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def forward(
        q_BTGK: Tensor,
        k_BTGK: Tensor,
        x_BTHV: Tensor,
        dt_BTH: Tensor,
        rate_H: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        q, k, x = (part.to(dtype) for part in (q_BTGK, k_BTGK, x_BTHV))
        y, final = mamba_chunk_scan_combined(
            x,
            dt_BTH,
            -rate_H,
            k,
            q,
            CHUNK,
            return_final_states=True,
            initial_states=state.mT.contiguous(),
        )
        return y.to(state.dtype), final.mT.to(state.dtype)

    def step(
        q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k, x = (part.to(state.dtype) for part in (q_BGK, k_BGK, x_BHV))
        (heads, value_dim), key_dim = x.shape[1:], k.shape[-1]
        # expanded, not copied: strides of 0 tell the kernel that dt, A, D and dt_bias are one
        # number per head; it reads D and dt_bias whatever they are
        dt, none = (
            part.unsqueeze(-1).expand(*part.shape, value_dim)
            for part in (dt_BH, rate_H.new_zeros(1).expand(heads))
        )
        rate = (-rate_H).view(heads, 1, 1).expand(heads, value_dim, key_dim)
        return selective_state_update(state.mT, x, dt, rate, k, q, D=none, dt_bias=none), state

    return forward, step


def selective_scan(dtype: torch.dtype) -> Pair:
    """`selective_scan` and `scan_step`; [B, C, T] here. The state that the parallel form
    returns has no gradient; from a given one torch goes on, for the kernel starts at zero. The step
    writes into the state."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    def forward(
        x_BTC: Tensor,
        dt_BTC: Tensor,
        a_NC: Tensor,
        b_BTN: Tensor,
        c_BTN: Tensor,
        state_BNC: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if state_BNC is not None:
            return recurrence.selective_scan(x_BTC, dt_BTC, a_NC, b_BTN, c_BTN, state_BNC)
        parts = (x_BTC, dt_BTC, b_BTN, c_BTN)
        x, dt, b, c = (part.to(dtype).mT.contiguous() for part in parts)
        y, state = selective_scan_fn(x, dt, a_NC.mT.contiguous(), b, c, return_last_state=True)
        return y.mT.to(a_NC.dtype), state.mT.to(a_NC.dtype)

    def step(
        x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor, state_BNC: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, dt, b, c = (part.to(state_BNC.dtype) for part in (x_BC, dt_BC, b_BN, c_BN))
        none_C = a_NC.new_zeros(1).expand(a_NC.shape[1])
        return selective_state_update(
            state_BNC.mT, x, dt, a_NC.mT, b, c, D=none_C, dt_bias=none_C
        ), state_BNC

    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    if core == "selective_scan" and not importable("selective_scan_cuda"):
        return "it was built without selective_scan_cuda"
    if sizes.get("key_dim", 0) > MAX_STATE:
        return f"it takes a state of up to {MAX_STATE}; got {sizes['key_dim']}"
    return ""


LIBRARY = Library(
    name="mamba-ssm",
    package="mamba_ssm",
    distribution="mamba-ssm",
    refusal=refusal,
    kernels={"ssd": ssd, "selective_scan": selective_scan},
    rounds=frozenset({"ssd"}),
    least="2.3",
)
