"""causal-conv1d 1.6: causal_conv1d_interface.py, csrc/causal_conv1d.cpp."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fake_libraries.shared import start


def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                     final_states_out=None, activation=None):
    batch, channels, tokens = x.shape
    width = weight.shape[1]
    assert 2 <= width <= 4
    assert channels % 8 == 0
    assert x.stride(1) == 1, "channel-last for states"
    assert x.stride(2) % 8 == 0
    assert x.stride(0) % 8 == 0
    initial_states = start(initial_states, batch, width - 1, channels, dtype=x.dtype).mT if (
        initial_states is None) else start(initial_states)
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


MODULES = {
    "causal_conv1d": {"__version__": "0.0-fake", "causal_conv1d_fn": causal_conv1d_fn,
                      "causal_conv1d_update": causal_conv1d_update},
}
