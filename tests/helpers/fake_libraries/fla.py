"""flash-linear-attention 0.6.0: fla/ops/*."""

import torch

from fake_libraries.shared import HALF, same_dtype, start


def _recurrence(q, k, v, scale, state, decay, write):
    """[B, T, H, *]; `decay(t)` multiplies the state [B, H, K, V], `write(t, state)` is added to
    it.
    """
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


def _delta(
    q,
    k,
    v,
    beta,
    g,
    scale,
    state,
):
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


def chunk_delta_rule(
    q,
    k,
    v,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    **kwargs,
):
    assert same_dtype(q, k, v) in HALF, "ChunkDeltaRuleFunction does not support float32"
    assert len(beta.shape) == 3
    assert output_final_state
    assert not kwargs
    assert not use_qk_l2norm_in_kernel
    return _delta(q, k, v, beta, None, scale, initial_state)


def fused_recurrent_delta_rule(
    q,
    k,
    v,
    beta=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    cu_seqlens=None,
):
    assert output_final_state
    assert not use_qk_l2norm_in_kernel
    return _delta(q, k, v, beta, None, scale, initial_state)


def chunk_gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    chunk_indices=None,
    cp_context=None,
    **kwargs,
):
    assert not kwargs
    assert not (use_qk_l2norm_in_kernel or use_beta_sigmoid_in_kernel)  # noqa: PT018
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == beta.shape
    return _delta(q, k, v, beta, g, scale, initial_state)


def fused_recurrent_gated_delta_rule(
    q,
    k,
    v,
    g=None,
    gk=None,
    gv=None,
    beta=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    A_log=None,
    dt_bias=None,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not torch.is_grad_enabled(), "backward pass is not implemented"
    assert not kwargs
    assert output_final_state
    assert not (use_qk_l2norm_in_kernel or use_gate_in_kernel or use_beta_sigmoid_in_kernel)  # noqa: PT018
    return _delta(q, k, v, beta, g, scale, initial_state)


def chunk_gla(
    q,
    k,
    v,
    g,
    scale=None,
    initial_state=None,
    output_final_state=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
):
    same_dtype(q, k, v)
    assert output_final_state
    assert q.shape == g.shape
    return _linear(q, k, v, g, scale, initial_state)


def fused_recurrent_gla(
    q,
    k,
    v,
    gk=None,
    gv=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    reverse=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not kwargs
    return chunk_gla(q, k, v, gk, scale, initial_state, output_final_state)


def chunk_simple_gla(
    q,
    k,
    v,
    g=None,
    g_gamma=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    **kwargs,
):
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == q.shape[:3]
    return _linear(q, k, v, g, scale, initial_state)


def fused_recurrent_simple_gla(
    q,
    k,
    v,
    g=None,
    g_gamma=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    reverse=False,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    return chunk_simple_gla(q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def chunk_kda(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    safe_gate=False,
    lower_bound=None,
    disable_recompute=False,
    return_intermediate_states=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    cp_context=None,
    use_graph=False,
    max_num_seqs=None,
    **kwargs,
):
    assert not kwargs
    assert not (  # noqa: PT018
        use_qk_l2norm_in_kernel or use_gate_in_kernel or use_beta_sigmoid_in_kernel or safe_gate
    )
    same_dtype(q, k, v)
    assert output_final_state
    assert g.shape == (*v.shape[:3], q.shape[3])
    assert beta.shape == v.shape[:3]
    assert initial_state is None or initial_state.dtype == torch.float32
    return _delta(q, k, v, beta, g, scale, initial_state)


def fused_recurrent_kda(
    q,
    k,
    v,
    g,
    beta,
    A_log=None,
    dt_bias=None,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    lower_bound=None,
    state_v_first=False,
    cu_seqlens=None,
    **kwargs,
):
    assert not torch.is_grad_enabled(), "forward only"
    assert not kwargs
    assert not (use_qk_l2norm_in_kernel or use_gate_in_kernel or use_beta_sigmoid_in_kernel)  # noqa: PT018
    assert output_final_state
    return _delta(q, k, v, beta, g, scale, initial_state)


def chunk_rwkv7(
    r,
    w,
    k,
    v,
    a,
    b,
    scale=1.0,
    initial_state=None,
    output_final_state=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    safe_gate=False,
    chunk_size=None,
    disable_recompute=False,
    cp_context=None,
    lower_bound=None,
):
    """w: log decay; a reads the state before it decays (generalized_delta_rule/dplr/naive.py)."""
    same_dtype(r, k, v, a, b)
    assert output_final_state
    assert w.shape == a.shape == b.shape == r.shape
    assert w.dtype == torch.float32, "our log decays"
    assert not safe_gate
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


def fused_recurrent_rwkv7(
    r, w, k, v, a, b, scale=None, initial_state=None, output_final_state=True, cu_seqlens=None
):
    assert not torch.is_grad_enabled(), "forward only"
    return chunk_rwkv7(
        r,
        w,
        k,
        v,
        a,
        b,
        scale,
        initial_state,
        output_final_state,
    )


MODULES = {
    "fla": {"__version__": "0.0-fake"},
    "fla.ops.delta_rule": {
        "chunk_delta_rule": chunk_delta_rule,
        "fused_recurrent_delta_rule": fused_recurrent_delta_rule,
    },
    "fla.ops.gated_delta_rule": {
        "chunk_gated_delta_rule": chunk_gated_delta_rule,
        "fused_recurrent_gated_delta_rule": fused_recurrent_gated_delta_rule,
    },
    "fla.ops.gla": {"chunk_gla": chunk_gla, "fused_recurrent_gla": fused_recurrent_gla},
    "fla.ops.simple_gla": {
        "chunk_simple_gla": chunk_simple_gla,
        "fused_recurrent_simple_gla": fused_recurrent_simple_gla,
    },
    "fla.ops.kda": {"chunk_kda": chunk_kda, "fused_recurrent_kda": fused_recurrent_kda},
    "fla.ops.rwkv7": {"chunk_rwkv7": chunk_rwkv7, "fused_recurrent_rwkv7": fused_recurrent_rwkv7},
}
