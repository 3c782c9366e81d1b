"""mamba-ssm 2.3: mamba_ssm/ops/triton/{ssd_combined,selective_state_update}.py,
ops/selective_scan_interface.py, csrc/selective_scan/selective_scan.cpp."""

import torch

from fake_libraries.shared import same_dtype, stand_in, start


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
    state, outputs = initial_states.float(), []
    B, C = (part.float().repeat_interleave(heads // groups, 2) for part in (B, C))
    for t in range(tokens):
        inputs = torch.einsum(
            "bhp,bhn->bhpn", x[:, t].float() * dt[:, t].float().unsqueeze(-1), B[:, t]
        )
        state = state * (dt[:, t].float() * A)[..., None, None].exp() + inputs
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    y = torch.stack(outputs, 1)
    return y.to(x.dtype), state.contiguous()  # as _state_passing_fwd allocates it


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
        x, dt, A, B, C = (
            x.unsqueeze(1),
            dt.unsqueeze(1),
            A.unsqueeze(0),
            B.unsqueeze(1),
            C.unsqueeze(1),
        )
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
    state, outputs = torch.zeros(batch, channels, state_size, device=u.device), []
    for t in range(tokens):
        inputs = torch.einsum("bd,bn->bdn", (delta.float() * u.float())[..., t], B[..., t].float())
        state = state * torch.einsum("bd,dn->bdn", delta[..., t].float(), A).exp() + inputs
        outputs.append(torch.einsum("bdn,bn->bd", state, C[..., t].float()))
    y = torch.stack(outputs, -1).to(u.dtype)
    return (y, state.detach()) if return_last_state else y
