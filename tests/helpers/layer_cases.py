"""Cases and helpers shared by the tests of the operator layers. A new operator joins SPECS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flashnas.architecture import parse_operators
from flashnas.operators.attention.layer import KeyValueCache
from flashnas.operators.layer import Layer, build_layer

torch.set_num_threads(1)

HIDDEN = 32
SPECS = {str(spec): spec for spec in parse_operators(
    "a(head_dim=8) a(heads=4,kv_heads=2,head_dim=8,qk_norm=true,qkv_bias=true)"
    " swa(head_dim=8,window=5) swa(heads=4,kv_heads=4,head_dim=16,window=300)"
    " a(heads=4,kv_heads=2,head_dim=8,qk_norm=true,qkv_bias=true,out_bias=true,out_gate=true,rope_share=0.5)"
    " a(head_dim=8,rope_share=0) swa(head_dim=8,window=5,out_gate=true,rope_factor=8,rope_original=64)"
    " m m(expand=1,state=5,conv_size=3,dt_rank=3,bias=true,conv_bias=false)"
    " m2(head_dim=8,state=8) m2(head_dim=16,state=16,groups=2,conv_size=3)"
    " m2(head_dim=8,state=8,heads=6,groups=2,bias=true,conv_bias=false,dt_min=0.05)"
    " gla(head_dim=16) gla(head_dim=8,gate_rank=3)"
    " d(head_dim=8) d(head_dim=16,conv_size=2)"
    " gd(head_dim=8) gd(head_dim=16,k_heads=1,expand_v=2)"
    " r7(head_dim=8) r7(head_dim=16,decay_rank=3,rate_rank=5,gate_rank=40)"
    " kda(head_dim=8) kda(heads=3,head_dim=16,conv_size=2,gate_rank=5)"
    " h(head_dim=8,ssm_head_dim=8,state=8)"
    " h(heads=6,kv_heads=2,head_dim=8,window=5,qk_norm=true,ssm_head_dim=16,state=8,groups=3)"
    " moe moe(experts=5,active=3,intermediate=11,normalise=false) moe(experts=4,intermediate=9,shared=13)"
    " moe(experts=3,active=1,shared=8,shared_gate=true)"
    " f f(intermediate=50) f(bias=true) f(intermediate=50,bias=true,relu2=true)")}
LENGTHS = (1, 63, 64, 65, 1000)


def make_layer(name: str, dtype: torch.dtype = torch.float64) -> Layer:
    """A layer with weights that reach every branch: norms away from 1, biases away from 0, strong gates."""
    torch.manual_seed(0)
    layer = build_layer(SPECS[name], HIDDEN)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 1 or not parameter.any():  # low-rank maps may start at zero
                parameter += 0.3 * torch.randn_like(parameter)
    return layer.to(dtype)


def make_inputs(tokens: int, batch: int = 2) -> Tensor:
    """Correlated inputs: neighbours differ little, so that keys are nearly parallel."""
    torch.manual_seed(tokens)
    return torch.randn(batch, 1, HIDDEN, dtype=torch.float64) + 0.3 * torch.randn(batch, tokens, HIDDEN,
                                                                                  dtype=torch.float64)


def random_state(layer: Layer, batch: int = 2, dtype: torch.dtype = torch.float64) -> Any:
    """A state as after some tokens, of leaf tensors that take gradients."""
    generator = torch.Generator().manual_seed(7)

    def leaf(tensor: Tensor) -> Tensor:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return values.to(tensor.dtype).requires_grad_()

    def filled(state: Any) -> Any:
        if isinstance(state, KeyValueCache):
            seen = 7  # more than the smallest window, and not a multiple of it
            kept = min(seen, state.window) if state.window else seen
            room = state.keys_BGTK.new_zeros(batch, state.keys_BGTK.shape[1], kept, state.keys_BGTK.shape[3])
            return replace(state, keys_BGTK=leaf(room), values_BGTK=leaf(room), seen=seen)
        if isinstance(state, Tensor):
            return leaf(state)
        return None if state is None else type(state)(*map(filled, state))

    return filled(layer.init_state(batch, dtype))


def state_tensors(state: Any) -> list[Tensor]:
    """The tensors of a state in an order that does not depend on how it came about."""
    if isinstance(state, KeyValueCache):
        return list(state.in_order())
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state or () for tensor in state_tensors(part)]


def state_leaves(state: Any) -> list[Tensor]:
    if isinstance(state, KeyValueCache):
        return [state.keys_BGTK, state.values_BGTK]
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state or () for tensor in state_leaves(part)]


def weighted_sum(y: Tensor, state: Any) -> Tensor:
    """A scalar that depends on every output and every state entry with a weight of its own."""
    generator = torch.Generator().manual_seed(3)
    parts = []
    for tensor in (y, *state_tensors(state)):
        weight = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        parts.append((tensor.double() * weight).sum())
    return torch.stack(parts).sum()


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Largest difference relative to the largest value expected (at least 1e-3 of absolute scale)."""
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    scale = max(expected.abs().max().item(), 1e-3)
    error = (got.double() - expected.double()).abs().max().item() / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}"
