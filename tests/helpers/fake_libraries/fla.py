"""flash-linear-attention 0.6.0: fla/ops/*, fla/modules/{causal_conv1d,norm}."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fake_libraries.shared import HALF, same_dtype, start


def _recurrence(q: Tensor, k: Tensor, v: Tensor, scale: float, state: Tensor | None, decay: Any,
                write: Any) -> tuple[Tensor, Tensor]:
    """[B, T, H, *]; `decay(t)` multiplies the state [B, H, K, V], `write(t, state)` is added to it."""
    batch, _, heads, key_dim = q.shape
    assert k.shape == q.shape
    assert v.shape[:3] == q.shape[:3]
    state = start(state, batch, heads, key_dim, v.shape[-1])
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


def _l2(x: Tensor) -> Tensor:
    """l2norm_fwd: in float32 inside, in x's dtype outside."""
    return (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False,
                     use_qk_l2norm_in_kernel=False, cu_seqlens=None, cu_seqlens_cpu=None, **kwargs):
    assert same_dtype(q, k, v) in HALF, "ChunkDeltaRuleFunction does not support float32"
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
    same_dtype(q, k, v)
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
    same_dtype(q, k, v)
    assert output_final_state
    assert q.shape == g.shape
    return _linear(q, k, v, g, q.shape[-1] ** -0.5 if scale is None else scale, initial_state)


def fused_recurrent_gla(q, k, v, gk=None, gv=None, scale=None, initial_state=None, output_final_state=False,
                        reverse=False, state_v_first=False, cu_seqlens=None, **kwargs):
    assert not kwargs
    return chunk_gla(q, k, v, gk, scale, initial_state, output_final_state)


def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False,
                     state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, **kwargs):
    same_dtype(q, k, v)
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
    same_dtype(q, k, v)
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
    same_dtype(r, k, v, a, b)
    assert output_final_state
    assert w.shape == a.shape == b.shape == r.shape
    assert w.dtype == torch.float32, "our log decays"
    assert not safe_gate or (lower_bound <= w).all(), "a decay that is too strong"
    state, outputs = start(initial_state, len(r), *r.shape[2:], v.shape[-1]), []
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
    initial_state = start(initial_state, batch, channels, width, dtype=x.dtype)
    assert initial_state.shape == (batch, channels, width)
    assert initial_state.is_contiguous()
    assert same_dtype(x, weight, initial_state)
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


MODULES = {
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
    "fla.modules.causal_conv1d": {"causal_conv1d": fla_causal_conv1d},
}
