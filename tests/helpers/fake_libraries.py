"""Stand-ins for the GPU libraries: their signatures, layouts, dtypes and demands, by plain loops on any
device.

Written from the documentation and argument checks of
- flash-linear-attention 0.6.0: fla/ops/*, fla/modules/{causal_conv1d,norm};
- mamba-ssm 2.3: mamba_ssm/ops/triton/{ssd_combined,selective_state_update,layernorm_gated}.py,
  ops/selective_scan_interface.py, csrc/selective_scan/selective_scan.cpp;
- causal-conv1d 1.6: causal_conv1d_interface.py, csrc/causal_conv1d.cpp;
- flash-attn 2.8: flash_attn_interface.py, and 3: hopper/flash_attn_interface.py. They hold what our adapters
  assume; that the libraries keep to it is for tests/gpu. Their parameters are those of the
libraries: tests/operators/test_library_signatures.py compares them.
"""

from __future__ import annotations

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.backends import core as backends

HALF = (torch.bfloat16, torch.float16)


def _same_dtype(*tensors: Tensor) -> torch.dtype:
    assert len({tensor.dtype for tensor in tensors}) == 1, [tensor.dtype for tensor in tensors]
    return tensors[0].dtype


def _start(state: Tensor | None, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The given state, or zeros of that shape where there is none."""
    if state is None:
        return torch.zeros(shape, dtype=dtype)
    assert any(state.stride()), "zeros that are one number: a sequence begins without a state"
    return state


def _recurrence(q: Tensor, k: Tensor, v: Tensor, scale: float, state: Tensor | None, decay: Any,
                write: Any) -> tuple[Tensor, Tensor]:
    """[B, T, H, *]; `decay(t)` multiplies the state [B, H, K, V], `write(t, state)` is added to it."""
    batch, _, heads, key_dim = q.shape
    assert k.shape == q.shape
    assert v.shape[:3] == q.shape[:3]
    state = _start(state, batch, heads, key_dim, v.shape[-1])
    assert state.shape == (batch, heads, key_dim, v.shape[-1])
    assert state.dtype == torch.float32
    outputs = []
    for t in range(q.shape[1]):
        state = state * decay(t)
        state = state + write(t, state)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t].float() * scale, state))
    return torch.stack(outputs, 1).to(v.dtype), state


def _delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, scale: float,
           state: Tensor | None) -> tuple[Tensor, Tensor]:
    """g: None, one log decay per head [B, T, H] or per key channel [B, T, H, K]."""
    assert beta.shape == q.shape[:3]
    decays = torch.zeros_like(beta) if g is None else g
    decays = decays.float().exp().reshape(*q.shape[:3], -1, 1)

    def write(t: int, state: Tensor) -> Tensor:
        error = v[:, t].float() - torch.einsum("bhk,bhkv->bhv", k[:, t].float(), state)
        return torch.einsum("bhk,bhv->bhkv", k[:, t].float(), beta[:, t].float().unsqueeze(-1) * error)

    return _recurrence(q, k, v, scale, state, lambda t: decays[:, t], write)


def _linear(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float,
            state: Tensor | None) -> tuple[Tensor, Tensor]:
    decays = g.float().exp().reshape(*q.shape[:3], -1, 1)
    return _recurrence(q, k, v, scale, state, lambda t: decays[:, t],
                       lambda t, _: torch.einsum("bhk,bhv->bhkv", k[:, t].float(), v[:, t].float()))


# -- flash-linear-attention ----------------------------------------------------------------------------------


def _l2(x: Tensor) -> Tensor:
    """l2norm_fwd: in float32 inside, in x's dtype outside."""
    return (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False,
                     use_qk_l2norm_in_kernel=False, cu_seqlens=None, cu_seqlens_cpu=None, **kwargs):
    assert _same_dtype(q, k, v) in HALF, "ChunkDeltaRuleFunction does not support float32"
    assert len(beta.shape) == 3
    assert output_final_state
    assert not kwargs
    q, k = (_l2(x) if use_qk_l2norm_in_kernel else x for x in (q, k))
    return _delta(q, k, v, beta, None, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def fused_recurrent_delta_rule(q, k, v, beta=None, scale=None, initial_state=None, output_final_state=False,
                               use_qk_l2norm_in_kernel=False, cu_seqlens=None):
    assert output_final_state
    q, k = (_l2(x) if use_qk_l2norm_in_kernel else x for x in (q, k))
    return _delta(q, k, v, beta, None, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def _delta_of_groups(q, k, v, g, beta, scale, initial_state, l2norm, sigmoid, gate, A_log, dt_bias):
    """What both gated rules share: key heads are repeated for groups of value heads, and what may be inside
    is."""
    heads, value_heads = q.shape[2], v.shape[2]
    assert q.shape == k.shape
    assert value_heads % heads == 0, "GVA"
    if l2norm:
        q, k = _l2(q), _l2(k)
    q, k = (x.repeat_interleave(value_heads // heads, 2) for x in (q, k))
    if sigmoid:
        beta = torch.sigmoid(beta.float())
    if gate:
        assert A_log.shape == (value_heads,)
        assert dt_bias.numel() == g[0, 0].numel(), "one bias for each decay"
        g = F.softplus(g.float() + dt_bias.float().view(g.shape[2:]))
        g = -A_log.float().exp().view(-1, *[1] * (g.ndim - 3)) * g
    return _delta(q, k, v, beta, g, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False,
                           use_qk_l2norm_in_kernel=False, use_beta_sigmoid_in_kernel=False,
                           allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None,
                           chunk_indices=None, cp_context=None, **kwargs):
    """use_gate_in_kernel, A_log and dt_bias are read from kwargs, as the library does."""
    assert set(kwargs) <= {"use_gate_in_kernel", "A_log", "dt_bias", "chunk_size"}
    _same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == beta.shape
    gate, A_log = kwargs.get("use_gate_in_kernel", False), kwargs.get("A_log")
    assert A_log is not None or not gate, "A_log must be provided when use_gate_in_kernel=True."
    return _delta_of_groups(q, k, v, g, beta, scale, initial_state, use_qk_l2norm_in_kernel,
                            use_beta_sigmoid_in_kernel, gate, A_log, kwargs.get("dt_bias"))


def fused_recurrent_gated_delta_rule(q, k, v, g=None, gk=None, gv=None, beta=None, scale=None,
                                     initial_state=None, output_final_state=False,
                                     use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, A_log=None,
                                     dt_bias=None, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False,
                                     state_v_first=False, cu_seqlens=None, **kwargs):
    """Without g nothing decays."""
    assert not torch.is_grad_enabled(), "backward pass is not implemented"
    assert not kwargs
    assert output_final_state
    assert not use_gate_in_kernel or (A_log is not None and g is not None)
    return _delta_of_groups(q, k, v, g, beta, scale, initial_state, use_qk_l2norm_in_kernel,
                            use_beta_sigmoid_in_kernel, use_gate_in_kernel, A_log, dt_bias)


def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False, state_v_first=False,
              cu_seqlens=None, cu_seqlens_cpu=None):
    _same_dtype(q, k, v)
    assert output_final_state
    assert q.shape == g.shape
    return _linear(q, k, v, g, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def fused_recurrent_gla(q, k, v, gk=None, gv=None, scale=None, initial_state=None, output_final_state=False,
                        reverse=False, state_v_first=False, cu_seqlens=None, **kwargs):
    assert not kwargs
    return chunk_gla(q, k, v, gk, scale, initial_state, output_final_state)


def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False,
                     state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, **kwargs):
    _same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == q.shape[:3]
    return _linear(q, k, v, g, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def fused_recurrent_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None,
                               output_final_state=False, reverse=False, state_v_first=False, cu_seqlens=None,
                               **kwargs):
    return chunk_simple_gla(q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def chunk_kda(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False,
              use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False,
              allow_neg_eigval=False, safe_gate=False, lower_bound=None, disable_recompute=False,
              return_intermediate_states=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None,
              cp_context=None, use_graph=False, max_num_seqs=None, **kwargs):
    assert set(kwargs) <= {"A_log", "dt_bias", "chunk_size"}
    _same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == (*v.shape[:3], q.shape[3])
    assert beta.shape == v.shape[:3]
    assert initial_state is None or initial_state.dtype == torch.float32
    return _delta_of_groups(q, k, v, g, beta, scale, initial_state, use_qk_l2norm_in_kernel,
                            use_beta_sigmoid_in_kernel, use_gate_in_kernel, kwargs.get("A_log"),
                            kwargs.get("dt_bias"))


def fused_recurrent_kda(q, k, v, g, beta, A_log=None, dt_bias=None, scale=None, initial_state=None,
                        output_final_state=False, use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False,
                        use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None,
                        state_v_first=False, cu_seqlens=None, **kwargs):
    assert not torch.is_grad_enabled(), "forward only"
    assert not kwargs
    assert output_final_state
    return _delta_of_groups(q, k, v, g, beta, scale, initial_state, use_qk_l2norm_in_kernel,
                            use_beta_sigmoid_in_kernel, use_gate_in_kernel, A_log, dt_bias)


def chunk_rwkv7(r, w, k, v, a, b, scale=1.0, initial_state=None, output_final_state=False, cu_seqlens=None,
                cu_seqlens_cpu=None, safe_gate=False, chunk_size=None, disable_recompute=False,
                cp_context=None, lower_bound=None):
    """w: log decay; a reads the state before it decays (generalized_delta_rule/dplr/naive.py)."""
    _same_dtype(r, k, v, a, b)
    assert output_final_state
    assert w.shape == a.shape == b.shape == r.shape
    assert w.dtype == torch.float32, "our log decays"
    assert not safe_gate or (lower_bound <= w).all(), "a decay that is too strong"
    state, outputs = _start(initial_state, len(r), *r.shape[2:], v.shape[-1]), []
    assert state.dtype == torch.float32
    for t in range(r.shape[1]):
        read = torch.einsum("bhk,bhkv->bhv", a[:, t].float(), state)
        state = (state * w[:, t].float().exp().unsqueeze(-1)
                 + torch.einsum("bhk,bhv->bhkv", b[:, t].float(), read)
                 + torch.einsum("bhk,bhv->bhkv", k[:, t].float(), v[:, t].float()))
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t].float() * scale, state))
    return torch.stack(outputs, 1).to(v.dtype), state


def fused_recurrent_rwkv7(r, w, k, v, a, b, scale=None, initial_state=None, output_final_state=True,
                          cu_seqlens=None):
    assert not torch.is_grad_enabled(), "forward only"
    return chunk_rwkv7(r, w, k, v, a, b, r.shape[-1] ** -0.5 if scale is None else scale, initial_state,
                       output_final_state)


def fused_mul_recurrent_rwkv7(r, w, k, v, kk, a, scale=1.0, initial_state=None, output_final_state=False,
                              reverse=False, cu_seqlens=None):
    """Any dtypes; the output has that of v."""
    assert not torch.is_grad_enabled(), "forward only"
    assert output_final_state
    wide = [part.float() for part in (r, w, k, v, -kk, kk.float() * a.float())]
    o, final = chunk_rwkv7(*wide, scale, initial_state, output_final_state)
    return o.to(v.dtype), final


class _FusedAddcmul(torch.autograd.Function):
    """As fla's: the gradient of hidden_states is written over them."""

    @staticmethod
    def forward(ctx, hidden_states, delta, *mixes):
        ctx.save_for_backward(hidden_states, delta, *mixes)
        return tuple(torch.addcmul(hidden_states.float(), delta.float(), mix.float()).to(hidden_states.dtype)
                     for mix in mixes)

    @staticmethod
    def backward(ctx, *grads):
        hidden_states, delta, *mixes = ctx.saved_tensors
        grad_delta = sum(grad.float() * mix.float() for grad, mix in zip(grads, mixes, strict=True))
        grad_mixes = [(grad.float() * delta).sum((0, 1), keepdim=True) for grad in grads]
        hidden_states.data.copy_(sum(grads))
        return hidden_states, grad_delta.to(delta.dtype), *grad_mixes


def fused_addcmul_rwkv7(hidden_states, delta, xr, xw, xk, xv, xa, xg=None):
    assert hidden_states.shape == delta.shape
    assert hidden_states.shape[1] > 1, "plain torch, six kernels"
    return _FusedAddcmul.apply(hidden_states, delta, xr, xw, xk, xv, xa, xg)


def fused_k_rwkv7(k, a, ka, cu_seqlens=None, cu_seqlens_cpu=None):
    """k (1 + (a - 1) ka); for one token in plain torch, which gives the wider dtype of both."""
    assert k.shape == a.shape
    assert k.shape[2:] == ka.shape
    if k.shape[1] == 1:
        return k.addcmul(k * (a - 1), ka)
    return (k.float() * (1 + (a.float() - 1) * ka.float())).to(k.dtype)


def gate_output_correction(o, r, k, r_k, v, g):
    assert r_k.shape == r.shape[2:]
    assert o.shape == g.shape
    assert r.shape == k.shape
    assert v.flatten(2).shape == o.shape
    correction = (r.float() * k.float() * r_k.float()).sum(-1, keepdim=True) * v.float()
    return ((o.float() + correction.flatten(2)) * g.float()).to(o.dtype)


def l2norm(x, eps=1e-6, output_dtype=None):
    return (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + eps)).to(output_dtype
                                                                                        or x.dtype)


def group_norm(x, weight, bias, residual=None, eps=1e-5, prenorm=False, residual_in_fp32=False,
               is_rms_norm=False, num_groups=1):
    assert residual is None
    assert not prenorm
    assert not is_rms_norm
    assert weight.shape == bias.shape == x.shape[-1:]
    wide = F.layer_norm(x.float().unflatten(-1, (num_groups, -1)), [x.shape[-1] // num_groups],
                        eps=eps).flatten(-2)
    return (wide * weight.float() + bias.float()).to(x.dtype)


def fla_causal_conv1d(x, weight=None, bias=None, residual=None, initial_state=None, output_final_state=False,
                      activation=None, backend="triton", cu_seqlens=None, cu_seqlens_cpu=None,
                      chunk_indices=None, cp_context=None, **kwargs):
    """x [B, T, D], weight [D, W], states [B, D, W] in memory order."""
    batch, tokens, channels = x.shape
    width = weight.shape[1]
    assert weight.shape == (channels, width)
    initial_state = _start(initial_state, batch, channels, width, dtype=x.dtype)
    assert initial_state.shape == (batch, channels, width)
    assert initial_state.is_contiguous()
    assert _same_dtype(x, weight, initial_state)
    history = torch.cat([initial_state, x.mT], -1)
    y = F.conv1d(history[..., 1:], weight.unsqueeze(1), bias, groups=channels)
    return F.silu(y).mT if activation == "silu" else y.mT, history[..., tokens:]


def rms_norm(x, weight, bias, residual=None, eps=1e-5, prenorm=False, residual_in_fp32=False):
    assert x.shape[-1:] == weight.shape
    assert x.shape[-1] * x.element_size() <= 65536, "This layer norm doesn't support feature dim >= 64KB."
    if residual is not None:
        assert residual.shape == x.shape
        assert prenorm
        total = x.float() + residual.float()
        return rms_norm(total, weight, bias, eps=eps).to(x.dtype), total.to(residual.dtype)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def swiglu(x, y):
    """Rows of any stride."""
    assert x.shape == y.shape
    assert x.stride(-1) == 1
    return (F.silu(x.float()) * y.float()).to(x.dtype)


def rms_norm_gated(x, g, weight, bias, activation="swish", residual=None, prenorm=False,
                   residual_in_fp32=False, eps=1e-6):
    assert activation in ("swish", "sigmoid")
    assert x.shape == g.shape
    gate = torch.sigmoid(g.float()) if activation == "sigmoid" else F.silu(g.float())
    return (rms_norm(x.float(), weight, bias, eps=eps) * gate).to(x.dtype)


def rmsnorm_fn(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
    """Of mamba_ssm and of fla."""
    assert z.shape == x.shape
    assert weight.shape == x.shape[-1:]
    assert x.shape[-1] % group_size == 0
    assert not norm_before_gate
    gated = (x.float() * F.silu(z.float())).unflatten(-1, (-1, group_size))
    return (rms_norm(gated, torch.ones(group_size, device=x.device), None, eps=eps).flatten(-2)
            * weight.float()).to(x.dtype)


# -- mamba-ssm and causal-conv1d -----------------------------------------------------------------------------


def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None,
                              seq_idx=None, cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float("inf")),
                              return_final_states=False, return_varlen_states=False):
    batch, tokens, heads, head_dim = x.shape
    groups, state_size = B.shape[2:]
    _same_dtype(x, B, C)
    assert dt.shape == (batch, tokens, heads)
    assert A.shape == (heads,)
    assert A.dtype == torch.float32
    assert z is None
    assert D is None or D.shape in ((heads, head_dim), (heads,))
    dt = dt.float()
    if dt_bias is not None:
        assert dt_bias.shape == (heads,)
        dt = dt + dt_bias.float()
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    assert C.shape == B.shape == (batch, tokens, groups, state_size)
    initial_states = _start(initial_states, batch, heads, head_dim, state_size)
    assert initial_states.shape == (batch, heads, head_dim, state_size)
    assert initial_states.is_contiguous()  # the library rearranges it
    assert return_final_states
    assert chunk_size & (chunk_size - 1) == 0
    state, outputs = initial_states.float(), []
    B, C = (part.float().repeat_interleave(heads // groups, 2) for part in (B, C))
    for t in range(tokens):
        inputs = torch.einsum("bhp,bhn->bhpn", x[:, t].float() * dt[:, t].float().unsqueeze(-1), B[:, t])
        state = state * (dt[:, t].float() * A)[..., None, None].exp() + inputs
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    y = torch.stack(outputs, 1)
    y = y if D is None else y + D.float().view(heads, -1) * x.float()
    return y.to(x.dtype), state.contiguous()  # as _state_passing_fwd allocates it


def mamba_split_conv1d_scan_combined(
        zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None, seq_idx=None,
        dt_limit=(0.0, float("inf")), return_final_states=False, activation="silu", rmsnorm_weight=None,
        rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None, ngroups=1, norm_before_gate=True):
    """By the stand-ins of its parts. Columns in front of z would be read as those of a SwiGLU."""
    (heads,), width = D.shape, zxbcdt.shape[-1]
    dim = heads * headdim
    state_size = (len(conv1d_weight) - dim) // ngroups // 2
    assert width == 2 * dim + 2 * ngroups * state_size + heads
    assert rmsnorm_weight.shape == (dim,)
    assert initial_states is None
    assert D.dtype == dt_bias.dtype == torch.float32
    z, xBC, dt = zxbcdt.split([dim, len(conv1d_weight), heads], -1)
    xBC = xBC.contiguous() if xBC.stride(1) % 8 else xBC
    xBC = causal_conv1d_fn(xBC.mT, conv1d_weight, conv1d_bias, return_final_states=True, activation=activation)[0].mT
    x, B, C = (part.unflatten(-1, (count, -1)) for part, count in zip(
        xBC.split([dim, ngroups * state_size, ngroups * state_size], -1), (heads, ngroups, ngroups), strict=True))
    out, final = mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D, None, dt_bias, dt_softplus=True,
                                           dt_limit=dt_limit, return_final_states=return_final_states)
    out = rmsnorm_fn(out.flatten(-2), rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate)
    assert outproj_bias is None or outproj_weight is not None
    return (out if outproj_weight is None else F.linear(out, outproj_weight, outproj_bias)), final


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False,
                           state_batch_indices=None):
    """Writes into `state`, of any strides. D and dt_bias may be None by the signature only: the library reads
    the strides of dt_bias, and unpacks 0 in place of those of D."""
    assert not torch.is_grad_enabled(), "no backward pass"
    has_heads = state.dim() > 3
    if D is None or dt_bias is None:
        raise TypeError("Value after * must be an iterable, not int")
    assert D.shape == dt_bias.shape == A.shape[:-1]
    assert z is None or z.shape == x.shape
    full = state if has_heads else state.unsqueeze(1)
    if not has_heads:
        x, dt, A, B, C = x.unsqueeze(1), dt.unsqueeze(1), A.unsqueeze(0), B.unsqueeze(1), C.unsqueeze(1)
    batch, heads, dim, state_size = full.shape
    assert x.shape == dt.shape == (batch, heads, dim)
    assert A.shape == (heads, dim, state_size)
    assert B.shape == C.shape == (batch, B.shape[1], state_size)
    B, C = (part.repeat_interleave(heads // part.shape[1], 1).float() for part in (B, C))
    # one number per head, by strides of 0: else the kernel reads dt, A and dt_bias for each channel
    if has_heads:
        assert A.stride(-1) == A.stride(-2) == dt.stride(-1) == dt_bias.stride(-1) == D.stride(-1) == 0
    dt = dt.float() + dt_bias.float().view(heads, dim)
    dt = F.softplus(dt) if dt_softplus else dt
    decay = (dt.unsqueeze(-1) * A).exp()
    full.copy_(full * decay + (dt * x).float().unsqueeze(-1) * B.unsqueeze(2))
    out = torch.einsum("bhpn,bhn->bhp", full.float(), C) + D.float().view(heads, dim) * x
    out = (out if z is None else out * F.silu(z.float()).view(out.shape)).to(x.dtype)
    return out if has_heads else out.squeeze(1)


def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                      return_last_state=False):
    """Starts at zero; the gradient of the last state is not considered."""
    batch, channels, tokens = u.shape
    state_size = A.shape[1]
    _same_dtype(u, delta, B, C)
    assert delta.shape == u.shape
    assert A.shape == (channels, state_size)
    assert A.dtype == torch.float32
    assert B.shape == C.shape == (batch, state_size, tokens)
    assert z is None or (z.shape == u.shape and z.dtype == u.dtype)
    for weight in (D, delta_bias):
        assert weight is None or (weight.shape == (channels,) and weight.dtype == torch.float32)
    bias = 0 if delta_bias is None else delta_bias.unsqueeze(-1)
    delta = F.softplus(delta.float() + bias) if delta_softplus else delta.float() + bias
    state, outputs = torch.zeros(batch, channels, state_size, device=u.device), []
    for t in range(tokens):
        inputs = torch.einsum("bd,bn->bdn", (delta * u.float())[..., t], B[..., t].float())
        state = state * torch.einsum("bd,dn->bdn", delta[..., t].float(), A).exp() + inputs
        outputs.append(torch.einsum("bdn,bn->bd", state, C[..., t].float()))
    y = torch.stack(outputs, -1)
    y = y if D is None else y + D.unsqueeze(-1) * u.float()
    y = (y if z is None else y * F.silu(z.float())).to(u.dtype)
    return (y, state.detach()) if return_last_state else y


def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                     final_states_out=None, activation=None):
    batch, channels, tokens = x.shape
    width = weight.shape[1]
    assert 2 <= width <= 4
    assert channels % 8 == 0
    assert x.stride(1) == 1, "channel-last for states"
    assert x.stride(2) % 8 == 0
    assert x.stride(0) % 8 == 0
    initial_states = _start(initial_states, batch, width - 1, channels, dtype=x.dtype).mT if (
        initial_states is None) else _start(initial_states)
    assert initial_states.shape == (batch, channels, width - 1)
    assert initial_states.stride(1) == 1
    assert initial_states.dtype == x.dtype
    assert bias is None or bias.dtype == weight.dtype
    assert return_final_states
    history = torch.cat([initial_states, x], -1)
    y = F.conv1d(history.to(weight.dtype), weight.unsqueeze(1), bias, groups=channels).to(x.dtype)
    return F.silu(y) if activation == "silu" else y, history[..., tokens:]


def causal_conv1d_update(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None,
                         conv_state_indices=None):
    """Writes into `conv_state`, of any strides."""
    assert not torch.is_grad_enabled(), "no backward pass"
    assert x.dim() == 2
    assert conv_state.shape == (*x.shape, weight.shape[1] - 1)
    assert conv_state.dtype == x.dtype
    history = torch.cat([conv_state, x.unsqueeze(-1)], -1)
    conv_state.copy_(history[..., 1:])
    y = F.conv1d(history.to(weight.dtype), weight.unsqueeze(1), bias,
                 groups=x.shape[1]).squeeze(-1).to(x.dtype)
    return F.silu(y) if activation == "silu" else y


# -- flash-attn ----------------------------------------------------------------------------------------------


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False):
    """[B, T, H, K]; the mask ends in the bottom right corner, `window_size` counts tokens beside the query's.
    """
    assert _same_dtype(q, k, v) in HALF
    tokens, keys, head_dim = q.shape[1], k.shape[1], q.shape[3]
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert k.shape == v.shape
    assert q.shape[2] % k.shape[2] == 0
    own = torch.arange(tokens, device=q.device).unsqueeze(1) + keys - tokens
    other = torch.arange(keys, device=q.device)
    left, right = window_size[0], 0 if causal else window_size[1]
    seen = (other <= own + right if right >= 0 else own == own) & (other >= own - left if left >= 0
                                                                   else own == own)
    k, v = (x.float().repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * (softmax_scale or head_dim ** -0.5)
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).to(q.dtype)


def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None,
                            cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None,
                            softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                            rotary_interleaved=True, alibi_slopes=None, num_splits=0,
                            return_softmax_lse=False):
    return _with_kvcache(q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, rotary_interleaved)


def _with_kvcache(q, k_cache, v_cache, k, v, cos, sin, cache_seqlens, interleaved):
    """One token. k and v are written at `cache_seqlens`, rotated as q is; without them `cache_seqlens` tokens are
    there. Checks as in csrc/flash_attn/flash_api.cpp, mha_fwd_kvcache; what they decide by are shapes alone."""
    assert not torch.is_grad_enabled(), "does not support backward pass"
    batch, room, groups, head_dim = k_cache.shape
    assert _same_dtype(q, k_cache, v_cache) in HALF
    assert all(x.stride(-1) == 1 for x in (q, k_cache, v_cache))
    if cache_seqlens is None:
        assert k is None
        return flash_attn_func(q, k_cache, v_cache)
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.shape == (batch,)
    assert cache_seqlens.is_contiguous()
    assert q.shape[1] == 1
    assert cos is None or k is not None, "rotary needs new keys"
    lengths = cache_seqlens.long()
    if k is not None:
        assert k.shape == v.shape == (batch, 1, groups, head_dim)
        assert _same_dtype(q, k, v)
        if cos is not None:
            assert cos.shape == sin.shape
            assert cos.dtype == sin.dtype == q.dtype
            assert cos.is_contiguous()
            assert sin.is_contiguous()
            assert cos.shape[0] >= room, "cos/sin seqlen must be at least the seqlen of KV cache"
            dim = 2 * cos.shape[1]
            assert dim % 16 == 0
            assert dim <= head_dim
            assert not interleaved, "GPT-J's order"
            c, s = (table.index_select(0, lengths)[:, None, None].float() for table in (cos, sin))

            def turned(x):
                a, b = x[..., :dim].float().chunk(2, -1)
                return torch.cat([a * c - b * s, b * c + a * s, x[..., dim:].float()], -1).to(x.dtype)

            q, k = turned(q), turned(k)
        place = lengths.view(-1, 1, 1, 1).expand(batch, 1, groups, head_dim)
        k_cache.scatter_(1, place, k)
        v_cache.scatter_(1, place, v)
        lengths = lengths + 1
    k, v = (x.float().repeat_interleave(q.shape[2] // groups, 2) for x in (k_cache, v_cache))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * head_dim ** -0.5
    unseen = torch.arange(room, device=q.device) >= lengths.view(-1, 1, 1, 1)
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(unseen, -torch.inf).softmax(-1), v).to(q.dtype)


def flash_attn_3_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
                      v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
                      pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):
    """Of the package `flash_attn_interface`; no dropout. Before 3.0 it also returned the log-sum-exp."""
    o = flash_attn_func(q, k, v, 0.0, softmax_scale, causal, window_size)
    return o, torch.zeros(o.shape[:3])


def flash_attn_3_with_kvcache(q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
                              cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
                              cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None,
                              rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None,
                              softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0,
                              softcap=0.0, rotary_interleaved=True, scheduler_metadata=None, num_splits=0,
                              pack_gqa=None, sm_margin=0, return_softmax_lse=False):
    return _with_kvcache(q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, rotary_interleaved)


MODULES = {
    "flash_attn_interface": {"__version__": "0.0-fake", "flash_attn_func": flash_attn_3_func,
                             "flash_attn_with_kvcache": flash_attn_3_with_kvcache},
    "fla": {"__version__": "0.0-fake"},
    "fla.ops.delta_rule": {"chunk_delta_rule": chunk_delta_rule,
                           "fused_recurrent_delta_rule": fused_recurrent_delta_rule},
    "fla.ops.gated_delta_rule": {"chunk_gated_delta_rule": chunk_gated_delta_rule,
                                 "fused_recurrent_gated_delta_rule": fused_recurrent_gated_delta_rule},
    "fla.ops.gla": {"chunk_gla": chunk_gla, "fused_recurrent_gla": fused_recurrent_gla},
    "fla.ops.simple_gla": {"chunk_simple_gla": chunk_simple_gla,
                           "fused_recurrent_simple_gla": fused_recurrent_simple_gla},
    "fla.ops.kda": {"chunk_kda": chunk_kda, "fused_recurrent_kda": fused_recurrent_kda},
    "fla.ops.rwkv7": {"chunk_rwkv7": chunk_rwkv7, "fused_recurrent_rwkv7": fused_recurrent_rwkv7,
                      "fused_mul_recurrent_rwkv7": fused_mul_recurrent_rwkv7},
    "fla.ops.rwkv7.fused_addcmul": {"fused_addcmul_rwkv7": fused_addcmul_rwkv7},
    "fla.ops.rwkv7.fused_k_update": {"fused_k_rwkv7": fused_k_rwkv7},
    "fla.ops.rwkv7.gate_output_correction": {"gate_output_correction": gate_output_correction},
    "fla.modules.activations": {"swiglu": swiglu},
    "fla.modules.norm.l2norm": {"l2norm": l2norm},
    "fla.modules.norm.fused_norm_gate": {"rms_norm_gated": rms_norm_gated},
    "fla.modules.norm.layernorm": {"rms_norm": rms_norm, "group_norm": group_norm},
    "fla.modules.norm.layernorm_gated": {"rmsnorm_fn": rmsnorm_fn},
    "mamba_ssm.ops.triton.layernorm_gated": {"rmsnorm_fn": rmsnorm_fn},
    "fla.modules.causal_conv1d": {"causal_conv1d": fla_causal_conv1d},
    "mamba_ssm": {"__version__": "0.0-fake"},
    "mamba_ssm.ops.triton.ssd_combined": {
        "mamba_chunk_scan_combined": mamba_chunk_scan_combined, "causal_conv1d_fwd_function": "what it imported",
        "mamba_split_conv1d_scan_combined": mamba_split_conv1d_scan_combined},
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": selective_state_update},
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
    "selective_scan_cuda": {},
    "causal_conv1d": {"__version__": "0.0-fake", "causal_conv1d_fn": causal_conv1d_fn,
                      "causal_conv1d_update": causal_conv1d_update},
    "flash_attn": {"__version__": "0.0-fake", "flash_attn_func": flash_attn_func,
                   "flash_attn_with_kvcache": flash_attn_with_kvcache},
}


def install(monkeypatch: pytest.MonkeyPatch, *packages: str, devices: tuple[str, ...] = ("cuda",)) -> None:
    """Put the stand-ins of these packages (all but flash-attn 3, if none is named) where the libraries would
    be; hide the others.

    devices: where our adapters may call them.
    """
    names = packages or ("fla", "mamba_ssm", "selective_scan_cuda", "causal_conv1d", "flash_attn")
    for name in ("fla", "mamba_ssm", "selective_scan_cuda", "causal_conv1d", "flash_attn",
                 "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, None)
    for path, contents in MODULES.items():
        if path.split(".")[0] in names:
            module = ModuleType(path)
            module.__spec__ = ModuleSpec(path, None)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, path, module)
    for name, place in backends.LIBRARIES.shipped.items():
        if name == "numba":  # the real one, on CPUs
            continue
        library = backends.LIBRARIES[name]
        devices_then = tuple(dict.fromkeys((*library.devices, *devices)))
        distribution = "torch" if name == "sdpa" else f"fake-{name}"  # without metadata: __version__ counts
        monkeypatch.setattr(sys.modules[place.partition(":")[0]], "LIBRARY",
                            dataclasses.replace(library, devices=devices_then, distribution=distribution))
