"""Layers, inputs and comparisons for the tests of adapters to libraries."""

import copy

import torch
from layer_cases import assert_close, state_tensors, weighted_sum

from flashnas.architecture import parse_operators
from flashnas.operators.attention.cache import KeyValueCache
from flashnas.operators.layer import RecurrentState, build_layer

HIDDEN = 64
CASES = [
    ("fla", "d(head_dim=16)"),
    ("fla", "gd(head_dim=16,k_heads=2,expand_v=2)"),
    ("fla", "gla(head_dim=32)"),
    ("fla", "m2(head_dim=16,state=24,groups=2,conv_size=3)"),
    ("fla", "m2(head_dim=16,state=16)"),
    ("mamba-ssm", "m2(head_dim=16,state=24,groups=2,conv_size=3)"),
    ("mamba-ssm", "m2(head_dim=16,state=16)"),
    ("fla", "kda(head_dim=16)"),
    ("fla", "r7(head_dim=16)"),
    ("mamba-ssm", "m(state=8)"),
]
FLASH = [
    "a(heads=4,kv_heads=2,head_dim=16)",
    "swa(heads=4,kv_heads=2,head_dim=16,window=5)",
    "a(heads=4,kv_heads=4,head_dim=16,out_gate=true)",
]


def make(text):
    torch.manual_seed(0)
    layer = build_layer(parse_operators(text)[0], HIDDEN)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return layer


def inputs(tokens):
    torch.manual_seed(tokens)
    return torch.randn(2, 1, HIDDEN) + 0.3 * torch.randn(2, tokens, HIDDEN)


def run(form, layer, x, state):
    """Output, states and gradients of inputs, weights and (recurrent) states."""
    x = x.clone().requires_grad_()
    leaves = {"x": x, **dict(layer.named_parameters())}
    if isinstance(state, RecurrentState):
        state = RecurrentState(*(part.clone().requires_grad_() for part in state))
        leaves |= {f"state {n}": part for n, part in enumerate(state)}
    y, after = form(x, state)
    # whose state has no gradient
    told = (
        None if getattr(getattr(layer, "core", None), "kind", None) == "selective_scan" else after
    )
    gradients = torch.autograd.grad(weighted_sum(y, told), list(leaves.values()), allow_unused=True)
    results = {
        "output": y,
        **{f"final state {n}": part for n, part in enumerate(state_tensors(after))},
    }
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in results.items()}


def state_after(layer, tokens):
    with torch.no_grad():
        state = layer.reference(inputs(tokens + 100)[:, :tokens])[1]
    if isinstance(state, KeyValueCache):
        return KeyValueCache(
            state.keys_BGTK.float(), state.values_BGTK.float(), state.seen, state.window
        )
    return RecurrentState(*(part.float() for part in state))


def check_steps(layer, tolerance):
    x, state = inputs(9), state_after(layer, 9)
    with torch.no_grad():
        expected, expected_state = layer.reference(x, state)
        outputs = []
        for t in range(x.shape[1]):
            y, state = layer.step(x[:, t], state)
            outputs.append(y)
    assert_close(torch.stack(outputs, 1), expected, tolerance, "steps")
    for got, tensor in zip(state_tensors(state), state_tensors(expected_state), strict=True):
        assert_close(got, tensor, tolerance, "state after the steps")


def check_in_bfloat16(layer):
    """As a model in bfloat16 and under autocast: near the reference, states in the dtypes of the
    torch code.
    """
    x = inputs(19).requires_grad_()
    for model, autocast in ((copy.deepcopy(layer), True), (layer.bfloat16(), False)):
        x_now = x if autocast else x.detach().bfloat16().requires_grad_()
        expected, _ = model.reference(x_now)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y, state = model(x_now)
            y.float().square().sum().backward()
            with torch.no_grad():
                stepped, _ = model.step(x_now[:, 0], model.init_state(2, torch.bfloat16))
        assert y.dtype == stepped.dtype == torch.bfloat16
        assert (y - expected).norm() < 0.03 * expected.norm()
        assert (stepped - expected[:, 0]).norm() < 0.03 * expected[:, 0].norm()
        assert all(
            p.grad is not None and p.grad.isfinite().all() for p in (x_now, *model.parameters())
        )
        if isinstance(state, RecurrentState):
            assert state.matrix_BHKV.dtype == torch.float32
