"""flash-linear-attention, 0.6 or later: Triton kernels for the recurrences and short convolutions.

All take [B, T, H, K] and float32 states [B, H, K, V], as we do. Queries come scaled and normalised, so
`scale` is 1. Parallel forms run in the dtype of the activations, with log decays and states in float32; steps
in float32. Raw forms are called as fla's own layers call them
(fla/layers/{delta_net,gated_deltanet,gla,kda,rwkv7}.py): their kernels read the activations as they are and
compute in float32.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.backends.library import (
    HALF,
    Forms,
    Function,
    Library,
    Pair,
    Sizes,
    importable,
    older_than,
)
from flashnas.operators.backends.mamba_ssm import MAX_NORM_BYTES, norm_of_gated
from flashnas.operators.parts.fused import normalise
from flashnas.operators.parts.numerics import is_fresh

HOPPER, BAD_TRITON = 9, ("3.4", "3.7.1")  # major compute capability; releases from, and below
DECAYS = ("gated_delta_rule", "ssd")
# of keys and values: one tile of tl.dot, and what the chunk kernels keep in registers
MIN_DIM, MAX_DIM = 16, 256
# fla takes kernels of these packages where they are installed, unless the variable is 0. mamba-ssm installs
# an old TileLang, with which fla's are not tested; a user's own FLA_TILELANG=1 turns them on
FURTHER = {"tilelang": "FLA_TILELANG", "flash_kda": "FLA_FLASH_KDA", "flash_qla": "FLA_FLASH_QLA"}
os.environ.setdefault("FLA_TILELANG", "0")
BOUNDED_CHUNK = 64  # of chunk_rwkv7 where decays are bounded, as fla's layer has it
BOUNDED_DIM = 64  # of keys whose chunks of that size are sure to fit into a multiprocessor
# how its raw kernels call our arguments, which of these have a time dimension, and the switches of what is
# inside
DECAYED, TIMED = "q k v beta g A_log dt_bias", ("q", "k", "v", "beta", "g", "gk")
L2_NORM, BETA = "use_qk_l2norm_in_kernel", "use_beta_sigmoid_in_kernel"


def _given(state: Tensor) -> Tensor | None:
    """The state that a parallel form continues; None at the beginning of a sequence."""
    return None if is_fresh(state) else state


def _pair(dtype: torch.dtype, chunk: Function, recurrent: Function, names: str, *, wide: str = "g",
          step_names: str = "") -> Pair:
    """Our forward and step by a chunk kernel and a recurrent one.

    names: how the library calls our arguments but the state, in order; "-": it does not take that one. wide:
    those that stay in float32. step_names: if the recurrent kernel has other ones.
    """
    def named(words: str, parts: tuple[Any, ...]) -> dict[str, Any]:
        return {name: part for name, part in zip(words.split(), parts[:-1], strict=True) if name != "-"}

    def forward(*parts: Any) -> tuple[Tensor, Tensor]:
        given = {name: part if name in wide else part.to(dtype) for name, part in named(names, parts).items()}
        o, final = chunk(**given, scale=1.0, initial_state=_given(parts[-1]), output_final_state=True)
        return o.to(parts[-1].dtype), final

    def step(*parts: Any) -> tuple[Tensor, Tensor]:
        state = parts[-1]
        given = {name: part.to(state.dtype).unsqueeze(1) for name,
                 part in named(step_names or names, parts).items()}
        o, final = recurrent(**given, scale=1.0, initial_state=state, output_final_state=True)
        return o.squeeze(1), final

    return forward, step


def _raw_pair(dtype: torch.dtype, chunk: Function, recurrent: Function, names: str, *, inside: str = "",
              step_names: str = "", step_inside: str = "") -> tuple[Function, Function]:
    """As `_pair`, with parts as projected and `scale` before the state. inside: switches of what the kernels
    compute; step_inside: more of the recurrent one."""
    def call(kernel: Function, names: str, switches: str, *arguments: Any) -> tuple[Tensor, Tensor]:
        *parts, scale, state = arguments
        o, final = kernel(**dict(zip(names.split(), parts, strict=True)), scale=scale, initial_state=state,
                          output_final_state=True, **dict.fromkeys(switches.split(), True))
        return o, final

    def forward(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        *parts, state = others
        return call(chunk, names, inside, *(part.to(dtype) for part in (q, k, v)), *parts, _given(state))

    def step(*arguments: Any) -> tuple[Tensor, Tensor]:
        *parts, state = arguments
        one = [part.unsqueeze(1) if name in TIMED else part
               for name, part in zip(f"{step_names or names} scale".split(), parts, strict=True)]
        o, final = call(recurrent, step_names or names, f"{inside} {step_inside}", *one, state)
        return o.squeeze(1), final

    return forward, step


def delta_rule(dtype: torch.dtype) -> Forms:
    """`delta_rule_chunked` and `delta_rule_step` without decay. chunk_delta_rule refuses float32: then a
    decay of 1. The raw step is that of the gated rule without a decay, whose kernel has norms and sigmoid
    inside."""
    from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
    forward, step = _pair(dtype, chunk_delta_rule, fused_recurrent_delta_rule, "q k v beta -")
    normed, raw_step = _raw_pair(dtype, chunk_delta_rule, fused_recurrent_gated_delta_rule, "q k v beta",
                                 inside=L2_NORM, step_inside=BETA)
    inside = "l2 norms and beta"
    if dtype not in HALF:
        gated = gated_delta_rule(dtype).forward

        def undecayed(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: None, state: Tensor) -> Any:
            return gated(q, k, v, beta, torch.zeros_like(beta), state)

        return Forms(undecayed, step, None, raw_step, inside)

    def raw_forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *others: Any) -> Any:
        return normed(q, k, v, torch.sigmoid(beta).to(dtype), *others)

    return Forms(forward, step, raw_forward, raw_step, inside)


def _decaying(dtype: torch.dtype, chunk: Function, recurrent: Function) -> Forms:
    """A delta rule with decay; norms, beta and decay inside the raw forms, and keys of fewer heads than
    values."""
    raw = _raw_pair(dtype, chunk, recurrent, DECAYED, inside=f"{L2_NORM} {BETA} use_gate_in_kernel")
    return Forms(*_pair(dtype, chunk, recurrent, "q k v beta g"), *raw, "l2 norms, beta and decay")


def gated_delta_rule(dtype: torch.dtype) -> Forms:
    """`delta_rule_chunked` and `delta_rule_step` with one log decay per head."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
    return _decaying(dtype, chunk_gated_delta_rule, fused_recurrent_gated_delta_rule)


def kda(dtype: torch.dtype) -> Forms:
    """`kda_chunked` and `kda_step`: the delta rule with one log decay per key channel."""
    from fla.ops.kda import chunk_kda, fused_recurrent_kda
    return _decaying(dtype, chunk_kda, fused_recurrent_kda)


def gla(dtype: torch.dtype) -> Forms:
    """`gla_chunked` and `gla_step`: one log decay per key channel. The logsigmoid of the gate stays outside,
    as in fla's own layer (fla/layers/gla.py)."""
    from fla.ops.gla import chunk_gla, fused_recurrent_gla
    pair, raw = (make(dtype, chunk_gla, fused_recurrent_gla, "q k v g", step_names="q k v gk")
                 for make in (_pair, _raw_pair))
    return Forms(*pair, *raw, "the scale")


def ssd(dtype: torch.dtype) -> Pair:
    """`ssd_scan` and `ssd_scan_step`: linear attention with one log decay per head; groups are written out.
    """
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla
    rules = _pair(dtype, chunk_simple_gla, fused_recurrent_simple_gla, "q k v g")

    def of_inputs(rule: Function) -> Function:
        def run(q: Tensor, k: Tensor, x: Tensor, dt: Tensor, rate_H: Tensor, state: Tensor) -> Any:
            repeats = x.shape[-2] // k.shape[-2]
            q, k = (part.repeat_interleave(repeats, -2) for part in (q, k))
            return rule(q, k, x * dt.unsqueeze(-1), -dt * rate_H, state)
        return run

    forward, step = map(of_inputs, rules)
    return forward, step


def dplr(dtype: torch.dtype) -> Forms:
    """`dplr_chunked` and `dplr_step` with b, as RWKV7 has it. Theirs: a reads the state before its decay."""
    from fla.ops.rwkv7 import chunk_rwkv7, fused_recurrent_rwkv7
    rules = _pair(dtype, chunk_rwkv7, fused_recurrent_rwkv7, "r k v a b w", wide="w")

    def of_inputs(rule: Function) -> Function:
        return lambda q, k, v, a, b, g, state: rule(q, k, v, a * g.exp(), b, g, state)

    forward, step = map(of_inputs, rules)
    return Forms(forward, step, *_raw_dplr(dtype), "the norm of keys, their update, bonus and gate")


# -- all of RWKV7, norms and activations ---------------------------------------------------------------------


def _raw_dplr(dtype: torch.dtype) -> tuple[Function, Function]:
    """RWKV7 as fla/layers/rwkv7.py computes it: the norm of the keys, their update by the rate, the group
    norm, and bonus with gate are one kernel each; the recurrent kernel takes kk and rate, not their products.
    """
    from fla.modules.norm.l2norm import l2norm
    from fla.modules.norm.layernorm import group_norm
    from fla.ops.rwkv7 import chunk_rwkv7, fused_mul_recurrent_rwkv7
    from fla.ops.rwkv7.fused_k_update import fused_k_rwkv7
    from fla.ops.rwkv7.gate_output_correction import gate_output_correction

    def chunked(kk: Tensor, rate: Tensor, state: Tensor, lowest: float, **parts: Tensor) -> Any:
        bound: dict[str, Any] = {}
        if dtype in HALF and kk.shape[-1] <= BOUNDED_DIM:  # by tensor cores, partly in float16
            bound = {"safe_gate": True, "lower_bound": lowest, "chunk_size": BOUNDED_CHUNK}
        return chunk_rwkv7(**parts, a=-kk, b=kk * rate, scale=1.0, initial_state=_given(state),
                           output_final_state=True, **bound)

    def recurrent(kk: Tensor, rate: Tensor, state: Tensor, lowest: float, **parts: Tensor) -> Any:
        return fused_mul_recurrent_rwkv7(**parts, kk=kk, a=rate, scale=1.0, initial_state=state,
                                         output_final_state=True)

    def around(rule: Function, parts_BTD: Sequence[Tensor], k_k: Tensor, k_a: Tensor, r_k: Tensor,
               norm_weight: Tensor, norm_bias: Tensor, norm_eps: float, lowest: float,
               state: Tensor) -> tuple[Tensor, Tensor]:
        r, k, v, w, rate, gate = (part.to(dtype) for part in parts_BTD)
        heads = state.shape[1:3]
        g, rate = lowest * torch.sigmoid(w.to(state.dtype)), torch.sigmoid(rate)
        kk = l2norm((k * k_k).unflatten(-1, heads), output_dtype=dtype)
        k = fused_k_rwkv7(k, rate, k_a).to(dtype)
        r, k, v, g, rate = (part.unflatten(-1, heads) for part in (r, k, v, g, rate))
        o, final = rule(kk, rate, state, lowest, r=r, w=g, k=k, v=v)
        o = group_norm(o.flatten(-2), norm_weight, norm_bias, eps=norm_eps, num_groups=heads[0])
        return gate_output_correction(o, r, k, r_k.view(heads), v, gate), final

    def forward(*parts_and_weights: Any) -> tuple[Tensor, Tensor]:
        return around(chunked, parts_and_weights[:6], *parts_and_weights[6:])

    def step(*parts_and_weights: Any) -> tuple[Tensor, Tensor]:
        y, final = around(recurrent, [part.unsqueeze(1) for part in parts_and_weights[:6]],
                          *parts_and_weights[6:])
        return y.squeeze(1), final

    return forward, step


def token_mix(dtype: torch.dtype) -> Pair:
    """`mixed_with_the_last`: one kernel, as by torch, and two for the gradients, instead of several that
    write all mixes. Steps by torch, as theirs."""
    from fla.ops.rwkv7.fused_addcmul import fused_addcmul_rwkv7

    from flashnas.operators.parts.token_mix import mixed_with_the_last

    def forward(x_BTD: Tensor, before_BTD: Tensor, mixes_MD: Tensor) -> Any:
        if x_BTD.shape[0] * x_BTD.shape[1] == 1:
            return mixed_with_the_last(x_BTD, before_BTD, mixes_MD)
        # x + (before - x) mix, turned round: its backward pass writes the gradient of the first argument over
        # that. As one sequence: of more than 65,536 tokens it reads only the first rightly, and it compiles
        # for each batch
        before, delta = (part.reshape(1, -1, part.shape[-1]) for part in (before_BTD, x_BTD - before_BTD))
        mixed = fused_addcmul_rwkv7(before, delta, *(1 - mixes_MD).unbind())
        return [part.view(x_BTD.shape) for part in mixed]

    return forward, mixed_with_the_last


def norm(dtype: torch.dtype) -> Forms:
    """`parts.fused.normalise`: weights in another dtype than the activations, and gates, inside one kernel.
    """
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.modules.norm.layernorm import rms_norm
    from fla.modules.norm.layernorm_gated import rmsnorm_fn

    def forward(x: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None, gate_first: bool = False,
                sigmoid: bool = False) -> Tensor:
        simple = gate is None and weight.dtype == x.dtype  # which is one kernel of torch
        shared = weight.shape == x.shape[-1:] or gate_first
        if simple or not shared or x.shape[-1] * x.element_size() > MAX_NORM_BYTES:
            return normalise(x, weight, eps, gate, gate_first, sigmoid)
        if gate is None:
            y: Tensor = rms_norm(x, weight, None, eps=eps)
            return y
        if gate_first:
            return norm_of_gated(rmsnorm_fn, x, weight, eps, gate)
        y = rms_norm_gated(x, gate, weight, None, activation="sigmoid" if sigmoid else "swish", eps=eps)
        return y if sigmoid else y.to(gate.dtype)

    def of_sum(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> Any:
        if x.shape[-1] * x.element_size() > MAX_NORM_BYTES:
            return normalise(x + update, weight, eps), x + update
        return rms_norm(update, weight, None, residual=x, eps=eps, prenorm=True)

    return Forms(forward, forward, of_sum, None, "the addition to the stream")


def swiglu(dtype: torch.dtype) -> Pair:
    """`parts.fused.swiglu` in one kernel, and in one for the gradients."""
    from fla.modules.activations import swiglu

    def forward(gate_up: Tensor) -> Any:
        return swiglu(*gate_up.chunk(2, -1))

    return forward, forward


def convolution(dtype: torch.dtype) -> Pair:
    """`short_convolution`; its state has one column more in front, [B, C, taps]. Steps by torch: they would
    copy it."""
    from fla.modules.causal_conv1d import causal_conv1d

    from flashnas.operators.parts.convolution import short_convolution_step

    def forward(x_BTC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None,
                silu: bool = True) -> tuple[Tensor, Tensor]:
        before = None if is_fresh(state_BTC) else F.pad(state_BTC.to(x_BTC.dtype).mT, (1, 0)).contiguous()
        y, after = causal_conv1d(x_BTC, weight.to(x_BTC.dtype),
                                 None if bias is None else bias.to(x_BTC.dtype), initial_state=before,
                                 output_final_state=True, activation="silu" if silu else None)
        return y, after[..., 1:].mT

    return forward, short_convolution_step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    if (core in DECAYS or (core == "delta_rule" and dtype not in HALF)) and (reason := _hopper()):
        return reason
    for name in ("key_dim", "value_dim"):
        if not MIN_DIM <= sizes.get(name, MIN_DIM) <= MAX_DIM:
            return f"it takes a {name} of {MIN_DIM} to {MAX_DIM}; got {sizes[name]}"
    return ""


@functools.cache
def _hopper() -> str:
    """Why gated rules cannot be trained here, or an empty string: fla raises RuntimeError for them on Hopper
    with these releases of Triton, whose gradients are wrong (fla/ops/common/chunk_o.py)."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != HOPPER:
        return ""
    try:  # not the version of the distribution, which is called pytorch-triton in nightlies of torch
        triton = str(importlib.import_module("triton").__version__)
    except ImportError:
        return ""
    if older_than(triton, BAD_TRITON[0]) or not older_than(triton, BAD_TRITON[1]):
        return ""
    return (f"it does not train gated rules on a Hopper device with Triton {triton}; Triton"
            f" {BAD_TRITON[1]} or later is needed, which comes with torch 2.12.1")


def further() -> str:
    """The packages of FURTHER that fla may take here, such as `tilelang`."""
    return ".".join(name for name, variable in FURTHER.items()
                    if os.environ.get(variable, "1") != "0" and importable(name))


LIBRARY = Library(
    name="fla", package="fla", distribution="flash-linear-attention", refusal=refusal,
    kernels={"delta_rule": delta_rule, "gated_delta_rule": gated_delta_rule, "gla": gla, "ssd": ssd,
             "kda": kda, "dplr": dplr, "convolution": convolution, "norm": norm, "token_mix": token_mix,
             "swiglu": swiglu},
    rounds=frozenset({"delta_rule", "gated_delta_rule", "gla", "ssd", "kda", "dplr"}), least="0.6",
    build=further)
