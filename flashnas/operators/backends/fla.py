"""flash-linear-attention, 0.6 or later: Triton kernels for the recurrences.

All take [B, T, H, K] and float32 states [B, H, K, V], as we do. Queries come scaled and normalised,
so `scale` is 1. Parallel forms run in the dtype of the activations, with log decays and states in
float32; steps in float32.
"""

import functools
import importlib
import os
from typing import Any

import torch
from torch import Tensor

from flashnas.operators.backends.library import (
    HALF,
    Function,
    Library,
    Pair,
    Sizes,
    older_than,
)

HOPPER, BAD_TRITON = 9, ("3.4", "3.7.1")  # major compute capability; releases from, and below
DECAYS = ("gated_delta_rule", "ssd")
# of keys and values: one tile of tl.dot, and what the chunk kernels keep in registers
MIN_DIM, MAX_DIM = 16, 256


def _ops(name: str) -> Any:
    """The module fla.ops.NAME.

    mamba-ssm installs an old TileLang, with which fla's kernels of it are not tested. Where a layer
    takes fla they stay off, unless the user sets FLA_TILELANG=1; fla reads the variable at each
    call.
    """
    os.environ.setdefault("FLA_TILELANG", "0")
    return importlib.import_module(f"fla.ops.{name}")


def _pair(
    dtype: torch.dtype,
    chunk: Function,
    recurrent: Function,
    names: str,
    *,
    wide: str = "g",
    step_names: str = "",
) -> Pair:
    """Our forward and step by a chunk kernel and a recurrent one.

    names: how the library calls our arguments but the state, in order; "-": it does not take that
    one. wide: those that stay in float32. step_names: if the recurrent kernel has other ones.
    """

    def named(words: str, parts: tuple[Any, ...]) -> dict[str, Any]:
        return {
            name: part for name, part in zip(words.split(), parts[:-1], strict=True) if name != "-"
        }

    def forward(*parts: Any) -> tuple[Tensor, Tensor]:
        given = {
            name: part if name in wide else part.to(dtype)
            for name, part in named(names, parts).items()
        }
        o, final = chunk(**given, scale=1.0, initial_state=parts[-1], output_final_state=True)
        return o.to(parts[-1].dtype), final

    def step(*parts: Any) -> tuple[Tensor, Tensor]:
        state = parts[-1]
        given = {
            name: part.to(state.dtype).unsqueeze(1)
            for name, part in named(step_names or names, parts).items()
        }
        o, final = recurrent(**given, scale=1.0, initial_state=state, output_final_state=True)
        return o.squeeze(1), final

    return forward, step


def delta_rule(dtype: torch.dtype) -> Pair:
    """`delta_rule_chunked` and `delta_rule_step` without decay. chunk_delta_rule refuses float32:
    then a decay of 1."""
    ops = _ops("delta_rule")
    pair = _pair(dtype, ops.chunk_delta_rule, ops.fused_recurrent_delta_rule, "q k v beta -")
    if dtype in HALF:
        return pair
    gated, _ = gated_delta_rule(dtype)

    def undecayed(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: None, state: Tensor) -> Any:
        return gated(q, k, v, beta, torch.zeros_like(beta), state)

    return undecayed, pair[1]


def gated_delta_rule(dtype: torch.dtype) -> Pair:
    """`delta_rule_chunked` and `delta_rule_step` with one log decay per head."""
    ops = _ops("gated_delta_rule")
    return _pair(
        dtype, ops.chunk_gated_delta_rule, ops.fused_recurrent_gated_delta_rule, "q k v beta g"
    )


def kda(dtype: torch.dtype) -> Pair:
    """`kda_chunked` and `kda_step`: the delta rule with one log decay per key channel."""
    ops = _ops("kda")
    return _pair(dtype, ops.chunk_kda, ops.fused_recurrent_kda, "q k v beta g")


def gla(dtype: torch.dtype) -> Pair:
    """`gla_chunked` and `gla_step`: one log decay per key channel."""
    ops = _ops("gla")
    return _pair(dtype, ops.chunk_gla, ops.fused_recurrent_gla, "q k v g", step_names="q k v gk")


def ssd(dtype: torch.dtype) -> Pair:
    """`ssd_scan` and `ssd_scan_step`: linear attention with one log decay per head; groups are
    written out.
    """
    ops = _ops("simple_gla")
    rules = _pair(dtype, ops.chunk_simple_gla, ops.fused_recurrent_simple_gla, "q k v g")

    def of_inputs(rule: Function) -> Function:
        def run(q: Tensor, k: Tensor, x: Tensor, dt: Tensor, rate_H: Tensor, state: Tensor) -> Any:
            repeats = x.shape[-2] // k.shape[-2]
            q, k = (part.repeat_interleave(repeats, -2) for part in (q, k))
            return rule(q, k, x * dt.unsqueeze(-1), -dt * rate_H, state)

        return run

    forward, step = map(of_inputs, rules)
    return forward, step


def dplr(dtype: torch.dtype) -> Pair:
    """`dplr_chunked` and `dplr_step` with b, as RWKV7 has it. Theirs: a reads the state before its
    decay.
    """
    ops = _ops("rwkv7")
    rules = _pair(dtype, ops.chunk_rwkv7, ops.fused_recurrent_rwkv7, "r k v a b w", wide="w")

    def of_inputs(rule: Function) -> Function:
        return lambda q, k, v, a, b, g, state: rule(q, k, v, a * g.exp(), b, g, state)

    forward, step = map(of_inputs, rules)
    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype == torch.float64:
        return "it has no float64"
    for name in ("key_dim", "value_dim"):
        if not MIN_DIM <= sizes.get(name, MIN_DIM) <= MAX_DIM:
            return f"it takes a {name} of {MIN_DIM} to {MAX_DIM}; got {sizes[name]}"
    return ""


def untrained(core: str, dtype: torch.dtype) -> str:
    """Why fla does not compute gradients of a core that it runs, or an empty string."""
    gated = core in DECAYS or (core == "delta_rule" and dtype not in HALF)
    return _hopper() if gated else ""


@functools.cache
def _hopper() -> str:
    """Why gated rules cannot be trained here, or an empty string: fla raises RuntimeError for them
    on Hopper with these releases of Triton, whose gradients are wrong
    (fla/ops/common/chunk_o.py)."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != HOPPER:
        return ""
    # not the version of the distribution, which is called pytorch-triton in nightlies of torch
    try:
        triton = str(importlib.import_module("triton").__version__)
    except ImportError:
        return ""
    if older_than(triton, BAD_TRITON[0]) or not older_than(triton, BAD_TRITON[1]):
        return ""
    return (
        f"it does not train gated rules on a Hopper device with Triton {triton}; Triton"
        f" {BAD_TRITON[1]} or later is needed, which comes with torch 2.12.1"
    )


LIBRARY = Library(
    name="fla",
    package="fla",
    distribution="flash-linear-attention",
    refusal=refusal,
    gradients=untrained,
    kernels={
        "delta_rule": delta_rule,
        "gated_delta_rule": gated_delta_rule,
        "gla": gla,
        "ssd": ssd,
        "kda": kda,
        "dplr": dplr,
    },
    rounds=frozenset({"delta_rule", "gated_delta_rule", "gla", "ssd", "kda", "dplr"}),
    least="0.6",
)
