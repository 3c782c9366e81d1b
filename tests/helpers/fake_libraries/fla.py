"""flash-linear-attention 0.6.0: fla/ops/*."""

import os

import torch

from fake_libraries.shared import HALF, same_dtype, stand_in, start


def _recurrence(q, k, v, scale, state, decay, write):
    """[B, T, H, *]; `decay(t)` multiplies the state [B, H, K, V], `write(t, state)` is added to
    it.
    """
    assert os.environ["FLA_TILELANG"] == "0", "its kernels are off"
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


def _delta(q, k, v, beta, g, scale, state):
    """g: None, one log decay per head [B, T, H] or per key channel [B, T, H, K]."""
    assert beta.shape == q.shape[:3]
    decays = torch.zeros_like(beta) if g is None else g
    decays = decays.float().exp().reshape(*q.shape[:3], -1, 1)

    def write(t, state):
        error = v[:, t].float() - torch.einsum("bhk,bhkv->bhv", k[:, t].float(), state)
        return torch.einsum(
            "bhk,bhv->bhkv", k[:, t].float(), beta[:, t].float().unsqueeze(-1) * error
        )

    return _recurrence(q, k, v, scale, state, lambda t: decays[:, t], write)


def _linear(q, k, v, g, scale, state):
    same_dtype(q, k, v)
    decays = g.float().exp().reshape(*q.shape[:3], -1, 1)
    return _recurrence(
        q,
        k,
        v,
        scale,
        state,
        lambda t: decays[:, t],
        lambda t, _: torch.einsum("bhk,bhv->bhkv", k[:, t].float(), v[:, t].float()),
    )


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
    assert output_final_state
    assert q.shape == g.shape
    return _linear(q, k, v, g, scale, initial_state)


@stand_in("fla.ops.gla", "fused_recurrent_gla")
def gla_step(q, k, v, gk, scale, initial_state, output_final_state):
    return gla(q, k, v, gk, scale, initial_state, output_final_state)


@stand_in("fla.ops.simple_gla", "chunk_simple_gla", "fused_recurrent_simple_gla")
def simple_gla(q, k, v, g, scale, initial_state, output_final_state):
    assert output_final_state
    assert g.shape == q.shape[:3]
    return _linear(q, k, v, g, scale, initial_state)


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
    state, outputs = start(initial_state, len(r), *r.shape[2:], v.shape[-1]), []
    assert state.dtype == torch.float32
    for t in range(r.shape[1]):
        read = torch.einsum("bhk,bhkv->bhv", a[:, t].float(), state)
        state = (
            state * w[:, t].float().exp().unsqueeze(-1)
            + torch.einsum("bhk,bhv->bhkv", b[:, t].float(), read)
            + torch.einsum("bhk,bhv->bhkv", k[:, t].float(), v[:, t].float())
        )
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t].float() * scale, state))
    return torch.stack(outputs, 1).to(v.dtype), state
