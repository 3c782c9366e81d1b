"""mamba-ssm 2.3: mamba_ssm/ops/triton/{ssd_combined,selective_state_update}.py,
ops/selective_scan_interface.py, csrc/selective_scan/selective_scan.cpp."""

import torch

from fake_libraries.shared import same_dtype, stand_in, start
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.operators.recurrences.selective_scan import scan_reference


@stand_in("mamba_ssm.ops.triton.ssd_combined")
def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, initial_states, return_final_states):
    batch, tokens, heads, head_dim = x.shape
    groups, state_size = B.shape[2:]
    same_dtype(x, B, C)
    assert dt.shape == (batch, tokens, heads)
    assert A.shape == (heads,)
    assert A.dtype == torch.float32
    assert C.shape == B.shape == (batch, tokens, groups, state_size)
    initial_states = start(initial_states, batch, heads, head_dim, state_size)
    assert initial_states.shape == (batch, heads, head_dim, state_size)
    assert initial_states.is_contiguous()  # the library rearranges it
    assert return_final_states
    assert chunk_size & (chunk_size - 1) == 0
    B, C = (part.float().repeat_interleave(heads // groups, 2) for part in (B, C))
    dt = dt.float().unsqueeze(-1)
    y, state = token_by_token(C, dt * B, x.float(), dt * A.unsqueeze(-1), initial_states.mT.float())
    return y.to(x.dtype), state.mT.contiguous()  # as _state_passing_fwd allocates it


@stand_in("mamba_ssm.ops.triton.selective_state_update")
def selective_state_update(state, x, dt, A, B, C, D, dt_bias):
    """Writes into `state`, of any strides. D and dt_bias may be None by the signature only: the
    library reads the strides of dt_bias, and unpacks 0 in place of those of D."""
    assert not torch.is_grad_enabled(), "no backward pass"
    has_heads = state.dim() > 3
    if D is None or dt_bias is None:
        raise TypeError("Value after * must be an iterable, not int")
    assert D.shape == dt_bias.shape == A.shape[:-1]
    full = state if has_heads else state.unsqueeze(1)
    if not has_heads:
        A = A.unsqueeze(0)
        x, dt, B, C = (part.unsqueeze(1) for part in (x, dt, B, C))
    batch, heads, dim, state_size = full.shape
    assert x.shape == dt.shape == (batch, heads, dim)
    assert A.shape == (heads, dim, state_size)
    assert B.shape == C.shape == (batch, B.shape[1], state_size)
    B, C = (part.repeat_interleave(heads // part.shape[1], 1).float() for part in (B, C))
    # one number per head, by strides of 0: else the kernel reads dt, A and dt_bias for each channel
    if has_heads:
        assert (
            A.stride(-1) == A.stride(-2) == dt.stride(-1) == dt_bias.stride(-1) == D.stride(-1) == 0
        )
    dt = dt.float() + dt_bias.float().view(heads, dim)
    decay = (dt.unsqueeze(-1) * A).exp()
    full.copy_(full * decay + (dt * x).float().unsqueeze(-1) * B.unsqueeze(2))
    out = torch.einsum("bhpn,bhn->bhp", full.float(), C) + D.float().view(heads, dim) * x
    return (out if has_heads else out.squeeze(1)).to(x.dtype)


@stand_in("mamba_ssm.ops.selective_scan_interface")
def selective_scan_fn(u, delta, A, B, C, return_last_state):
    """Starts at zero; the gradient of the last state is not considered."""
    batch, channels, tokens = u.shape
    state_size = A.shape[1]
    same_dtype(u, delta, B, C)
    assert delta.shape == u.shape
    assert A.shape == (channels, state_size)
    assert A.dtype == torch.float32
    assert B.shape == C.shape == (batch, state_size, tokens)
    wide = (part.mT.float() for part in (u, delta, A, B, C))
    y, state = scan_reference(*wide, torch.zeros(batch, state_size, channels))
    y = y.mT.to(u.dtype)
    return (y, state.mT.detach()) if return_last_state else y
