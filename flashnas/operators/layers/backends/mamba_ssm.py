"""mamba-ssm, 2.2 or later: the kernels of Mamba2.

Their states are [B, H, V, K], transposed to ours; C, B, x, dt of the papers are our q, k, x, dt. Source: the docstrings
of mamba_ssm/ops/triton/{ssd_combined,selective_state_update}.py, github.com/state-spaces/mamba.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashnas.operators.layers.backends.library import Library, Pair, Sizes

CHUNK = 256
MOST_STATE = 256


def ssd(dtype: torch.dtype) -> Pair:
    """`ssd_scan` and `ssd_scan_step`; the step writes into the state."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def forward(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
                state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, x = (part.to(dtype) for part in (q_BTGK, k_BTGK, x_BTHV))
        y, final = mamba_chunk_scan_combined(x, dt_BTH, -rate_H, k, q, CHUNK, initial_states=state.mT.contiguous(),
                                             return_final_states=True)
        return y.to(state.dtype), final.mT.to(state.dtype)

    def step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
             state: Tensor) -> tuple[Tensor, Tensor]:
        (heads, value_dim), key_dim = x_BHV.shape[1:], state.shape[2]
        # expanded, not copied: strides of 0 tell the kernel that dt and A are one number per head
        dt = dt_BH.unsqueeze(-1).expand(-1, -1, value_dim)
        rate = (-rate_H).view(heads, 1, 1).expand(heads, value_dim, key_dim)
        return selective_state_update(state.mT, x_BHV, dt, rate, k_BGK, q_BGK), state

    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    if sizes["key_dim"] > MOST_STATE:
        return f"it takes a state of up to {MOST_STATE}; got {sizes['key_dim']}"
    return ""


LIBRARY = Library(name="mamba-ssm", package="mamba_ssm", distribution="mamba-ssm", refusal=refusal,
                  kernels={"ssd": ssd}, rounds=frozenset({"ssd"}))
