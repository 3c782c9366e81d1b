"""mamba-ssm, 2.3 or later: the kernels of Mamba and Mamba2.

Their states are [B, H, V, K], transposed to ours; C, B, x, dt of the papers are our q, k, x, dt. Source: the
docstrings of mamba_ssm/ops/triton/{ssd_combined,selective_state_update,layernorm_gated}.py,
github.com/state-spaces/mamba.

Raw forms give the library what its own layers give: dt as projected, in the dtype of the activations, and
A, dt_bias and D in float32. Softplus and the sums are then computed in float32, inside.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.backends.library import Forms, Function, Library, Pair, Sizes, importable
from flashnas.operators.parts.fused import normalise
from flashnas.operators.parts.numerics import is_fresh

CHUNK = 256
MAX_STATE = 256
NO_TIME = 2.0 ** -60   # a time step in which nothing decays: exp(-rate NO_TIME) is 1
MAX_NORM_BYTES = 65536   # of one row


def _ssd(dtype: torch.dtype) -> tuple[Function, Function]:
    """The calls of the library: (y, final state [B, H, V, K]) of a sequence; y of a token, which writes into
    the state. inside: what else they compute."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def scan(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, A_H: Tensor, state: Tensor,
             **inside: Any) -> Any:
        q, k, x = (part.to(dtype) for part in (q_BTGK, k_BTGK, x_BTHV))
        before = None if is_fresh(state) else state.mT.contiguous()
        return mamba_chunk_scan_combined(x, dt_BTH, A_H, k, q, CHUNK, initial_states=before,
                                         return_final_states=True, **inside)

    def update(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, A_H: Tensor, D_H: Tensor,
               dt_bias_H: Tensor, state: Tensor, **inside: Any) -> Any:
        (heads, value_dim), key_dim = x_BHV.shape[1:], state.shape[2]
        # expanded, not copied: strides of 0 tell the kernel that dt, A, D and dt_bias are one number per head
        dt, D, dt_bias = (part.unsqueeze(-1).expand(*part.shape, value_dim)
                          for part in (dt_BH, D_H, dt_bias_H))
        rate = A_H.view(heads, 1, 1).expand(heads, value_dim, key_dim)
        return selective_state_update(state.mT, x_BHV, dt, rate, k_BGK, q_BGK, D=D, dt_bias=dt_bias,
                                      **inside)

    return scan, update


def ssd(dtype: torch.dtype) -> Forms:
    """`ssd_scan` and `ssd_scan_step`; steps write into the state. Raw forms as mamba_ssm/modules/mamba2.py
    calls it; the gate comes with the norm, behind it."""
    scan, update = _ssd(dtype)

    def forward(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, rate_H: Tensor,
                state: Tensor) -> tuple[Tensor, Tensor]:
        y, final = scan(q_BTGK, k_BTGK, x_BTHV, dt_BTH, -rate_H, state)
        return y.to(state.dtype), final.mT.to(state.dtype)

    def step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, rate_H: Tensor,
             state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, x = (part.to(state.dtype) for part in (q_BGK, k_BGK, x_BHV))
        none_H = rate_H.new_zeros(1).expand(len(rate_H))  # the kernel reads D and dt_bias whatever they are
        return update(q, k, x, dt_BH, -rate_H, none_H, none_H, state), state

    def raw_forward(q_BTGK: Tensor, k_BTGK: Tensor, x_BTHV: Tensor, dt_BTH: Tensor, dt_bias_H: Tensor,
                    dt_min: float, A_H: Tensor, D_H: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, final = scan(q_BTGK, k_BTGK, x_BTHV, dt_BTH, A_H, state, D=D_H, dt_bias=dt_bias_H,
                        dt_softplus=True, dt_limit=(dt_min, float("inf")))
        return y, final.mT.to(state.dtype)

    def raw_step(q_BGK: Tensor, k_BGK: Tensor, x_BHV: Tensor, dt_BH: Tensor, dt_bias_H: Tensor, dt_min: float,
                 A_H: Tensor, D_H: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if dt_min:  # the kernel has no limit of dt
            dt_BH = F.softplus(dt_BH.float() + dt_bias_H).clamp(min=dt_min)
            dt_bias_H = torch.zeros_like(dt_bias_H)
        return update(q_BGK, k_BGK, x_BHV, dt_BH, A_H, D_H, dt_bias_H, state, dt_softplus=not dt_min), state

    return Forms(forward, step, raw_forward, raw_step, "time steps and D", _combined_ssd(), "causal-conv1d")


def _combined_ssd() -> Function | None:
    """A layer from in_proj to out_proj as one node, as mamba_ssm/modules/mamba2.py trains it. For the
    backward pass it keeps what in_proj and the scan gave, and computes the rest again. None where it lacks
    causal-conv1d."""
    from mamba_ssm.ops.triton.ssd_combined import causal_conv1d_fwd_function, mamba_split_conv1d_scan_combined

    def run(zxbcdt_BTC: Tensor, taps: Tensor, taps_bias: Tensor | None, dt_bias_H: Tensor, dt_min: float,
            A_H: Tensor, D_H: Tensor, norm: Tensor, groups: int, eps: float, out: Tensor | None,
            out_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        y, final = mamba_split_conv1d_scan_combined(
            zxbcdt_BTC, taps, taps_bias, dt_bias_H, A_H, D_H, CHUNK, dt_limit=(dt_min, float("inf")),
            return_final_states=True, rmsnorm_weight=norm, rmsnorm_eps=eps, outproj_weight=out,
            outproj_bias=out_bias, headdim=len(norm) // len(D_H), ngroups=groups, norm_before_gate=False)
        return y, final.mT.float()

    return None if causal_conv1d_fwd_function is None else run


def selective_scan(dtype: torch.dtype) -> Forms:
    """`scan_of_inputs` and `scan_of_inputs_step`; [B, C, T] here. The state that the parallel form returns
    has no gradient. The step writes into the state.

    The kernel starts at zero. A given state is therefore read as N tokens in front: token n has B = e_n, a
    time step NO_TIME in which nothing decays, and an input with dt x = S[n]. That is exact in float32, which
    these calls take. Raw forms as mamba_ssm/modules/mamba_simple.py calls it; the parallel one begins a
    sequence."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    def forward(x_BTC: Tensor, dt_BTC: Tensor, a_NC: Tensor, b_BTN: Tensor, c_BTN: Tensor,
                state_BNC: Tensor | None) -> tuple[Tensor, Tensor]:
        states = 0 if state_BNC is None or is_fresh(state_BNC) else len(a_NC)
        parts: tuple[Tensor, ...] = (x_BTC, dt_BTC, b_BTN, c_BTN)
        if state_BNC is not None and states:
            wide, unit_NN = [part.to(a_NC.dtype) for part in parts], torch.eye(states, device=a_NC.device)
            unit_BNN = unit_NN.to(a_NC.dtype).expand(len(x_BTC), -1, -1)
            first = (state_BNC / NO_TIME, torch.full_like(state_BNC, NO_TIME), unit_BNN,
                     torch.zeros_like(unit_BNN))
            parts = tuple(torch.cat([front, part], 1) for front, part in zip(first, wide, strict=True))
        x, dt, b, c = (part.to(a_NC.dtype if states else dtype).mT.contiguous() for part in parts)
        y, state = selective_scan_fn(x, dt, a_NC.mT.contiguous(), b, c, return_last_state=True)
        return y.mT[:, states:].to(a_NC.dtype), state.mT.to(a_NC.dtype)

    def step(x_BC: Tensor, dt_BC: Tensor, a_NC: Tensor, b_BN: Tensor, c_BN: Tensor,
             state_BNC: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, b, c = (part.to(state_BNC.dtype) for part in (x_BC, dt_BC, b_BN, c_BN))
        none_C = a_NC.new_zeros(1).expand(a_NC.shape[1])
        return selective_state_update(state_BNC.mT, x, dt, a_NC.mT, b, c, D=none_C, dt_bias=none_C), state_BNC

    def raw_forward(x_BTC: Tensor, z_BTC: Tensor, dt_BTC: Tensor, dt_bias_C: Tensor, A_CN: Tensor,
                    D_C: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BNC: None) -> tuple[Tensor, Tensor]:
        x, z, dt, b, c = (part.to(dtype).mT.contiguous() for part in (x_BTC, z_BTC, dt_BTC, b_BTN, c_BTN))
        y, state = selective_scan_fn(x, dt, A_CN, b, c, D=D_C, z=z,
                                     delta_bias=dt_bias_C, delta_softplus=True,
                                     return_last_state=True)
        return y.mT, state.mT.float()

    def raw_step(x_BC: Tensor, z_BC: Tensor, dt_BC: Tensor, dt_bias_C: Tensor, A_CN: Tensor, D_C: Tensor,
                 b_BN: Tensor, c_BN: Tensor, state_BNC: Tensor) -> tuple[Tensor, Tensor]:
        y = selective_state_update(state_BNC.mT, x_BC, dt_BC, A_CN, b_BN, c_BN,
                                   D=D_C, z=z_BC, dt_bias=dt_bias_C, dt_softplus=True)
        return y, state_BNC

    return Forms(forward, step, raw_forward, raw_step, "time steps, D and gate")


def norm(dtype: torch.dtype) -> Pair:
    """`parts.fused.normalise`: the norm of what silu gated is one kernel; the others are torch's."""
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

    def forward(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None, gate_first: bool = False,
                sigmoid: bool = False) -> Tensor:
        if gate is None or not gate_first or x.shape[-1] * x.element_size() > MAX_NORM_BYTES:
            return normalise(x, weight, eps, gate, gate_first, sigmoid)
        return norm_of_gated(rmsnorm_fn, x, weight, eps, gate)

    return forward, forward


def norm_of_gated(rmsnorm_fn: Function, x_TGD: Tensor, weight_GD: Tensor, eps: float,
                  gate_TGD: Tensor) -> Tensor:
    """`rms_norm_of_gated` by a kernel for groups, which mamba-ssm and fla have with the same arguments."""
    y: Tensor = rmsnorm_fn(x_TGD.flatten(-2), weight_GD.flatten(), None, z=gate_TGD.flatten(-2), eps=eps,
                           group_size=weight_GD.shape[-1], norm_before_gate=False)
    return y.view(x_TGD.shape).to(gate_TGD.dtype)


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    if core == "selective_scan" and not importable("selective_scan_cuda"):
        return "it was built without selective_scan_cuda"
    if sizes.get("key_dim", 0) > MAX_STATE:
        return f"it takes a state of up to {MAX_STATE}; got {sizes['key_dim']}"
    return ""


LIBRARY = Library(name="mamba-ssm", package="mamba_ssm", distribution="mamba-ssm", refusal=refusal,
                  kernels={"ssd": ssd, "selective_scan": selective_scan, "norm": norm},
                  rounds=frozenset({"ssd"}), least="2.3")
