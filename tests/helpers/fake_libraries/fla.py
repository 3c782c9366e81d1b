"""flash-linear-attention 0.6.0: fla/ops/*. Our formula computes, which is held against fla's own."""

import os

import torch

from fake_libraries.shared import HALF, same_dtype, stand_in, start
from flashnas.operators.recurrences.reference import token_by_token


def _recurrence(q, k, v, g, scale, state, a=None, b=None):
    """[B, T, H, *], states [B, H, K, V]. g: None, one log decay per head [B, T, H] or per key channel
    [B, T, H, K]; a reads the state after the decay."""
    assert os.environ["FLA_TILELANG"] == "0", "its kernels are off"
    assert k.shape == q.shape
    assert v.shape[:3] == q.shape[:3]
    shape = len(q), *q.shape[2:], v.shape[-1]
    state = start(state, *shape)
    assert state.shape == shape
    assert state.dtype == torch.float32
    decays = g if g is None else g.reshape(*q.shape[:3], -1)
    parts = (x if x is None else x.float() for x in (q, k, v, decays, state, a, b))
    o, state = token_by_token(*parts)
    return (o * scale).to(v.dtype), state


def _delta(q, k, v, beta, g, scale, state):
    assert beta.shape == q.shape[:3]
    writes = k.float() * beta.float().unsqueeze(-1)
    return _recurrence(q, writes, v, g, scale, state, -k, writes)


@stand_in("fla.ops.delta_rule", "chunk_delta_rule", "fused_recurrent_delta_rule")
def delta_rule(q, k, v, beta, scale, initial_state, output_final_state):
    dtype = same_dtype(q, k, v)
    assert dtype in HALF or q.shape[1] == 1, "ChunkDeltaRuleFunction does not support float32"
    assert output_final_state
    return _delta(q, k, v, beta, None, scale, initial_state)


@stand_in("fla.ops.gated_delta_rule", "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")
def gated_delta_rule(q, k, v, g, beta, scale, initial_state, output_final_state):
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == beta.shape
    return _delta(q, k, v, beta, g, scale, initial_state)


@stand_in("fla.ops.gla", "chunk_gla")
def gla(q, k, v, g, scale, initial_state, output_final_state):
    same_dtype(q, k, v)
    assert output_final_state
    assert q.shape == g.shape
    return _recurrence(q, k, v, g, scale, initial_state)


@stand_in("fla.ops.gla", "fused_recurrent_gla")
def gla_step(q, k, v, gk, scale, initial_state, output_final_state):
    return gla(q, k, v, gk, scale, initial_state, output_final_state)


@stand_in("fla.ops.simple_gla", "chunk_simple_gla", "fused_recurrent_simple_gla")
def simple_gla(q, k, v, g, scale, initial_state, output_final_state):
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == q.shape[:3]
    return _recurrence(q, k, v, g, scale, initial_state)


@stand_in("fla.ops.kda", "chunk_kda", "fused_recurrent_kda")
def kda(q, k, v, g, beta, scale, initial_state, output_final_state):
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == (*v.shape[:3], q.shape[3])
    return _delta(q, k, v, beta, g, scale, initial_state)


@stand_in("fla.ops.rwkv7", "chunk_rwkv7", "fused_recurrent_rwkv7")
def rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state):
    """w: log decay; a reads the state before it decays (generalized_delta_rule/dplr/naive.py)."""
    same_dtype(r, k, v, a, b)
    assert output_final_state
    assert w.shape == a.shape == b.shape == r.shape
    assert w.dtype == torch.float32, "our log decays"
    return _recurrence(r, k, v, w, scale, initial_state, a.float() * (-w).exp(), b)
