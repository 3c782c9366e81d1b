"""Every operator: reference, parallel form and step agree in outputs, states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import (
    HIDDEN,
    LENGTHS,
    SPECS,
    assert_close,
    make_inputs,
    make_layer,
    random_state,
    state_leaves,
    state_tensors,
    weighted_sum,
)
from torch import Tensor

from flashnas.operators import OPERATORS
from flashnas.operators.layer import Layer
from flashnas.operators.mixture_of_experts.layer import MixtureOfExpertsLayer

Form = Callable[[Tensor, Any], tuple[Tensor, Any]]

pytestmark = pytest.mark.filterwarnings("error")


def run_form(layer: Layer, form: Form, x: Tensor, state: Any) -> dict[str, Tensor]:
    """Output, final state and gradients (input, weights, initial state) of one form, by name."""
    x = x.clone().requires_grad_()
    y, after = form(x, state)
    wanted = {"x": x, **dict(layer.named_parameters()),
              **{f"state {n}": leaf for n, leaf in enumerate(state_leaves(state))}}
    gradients = torch.autograd.grad(weighted_sum(y, after), list(wanted.values()), allow_unused=True)
    results = {"output": y, **{f"final state {n}": tensor for n, tensor in enumerate(state_tensors(after))}}
    for (name, tensor), gradient in zip(wanted.items(), gradients, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in results.items()}


def routes(layer: MixtureOfExpertsLayer, x: Tensor) -> Tensor:
    """The numbers of each token's experts, ascending."""
    return (x.double() @ layer.router.weight.double().T).topk(layer.active, -1).indices.sort(-1).values


def test_every_operator_has_a_case() -> None:
    assert {spec.kind for spec in SPECS.values()} == set(OPERATORS)


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_parallel_form_equals_reference(name: str, tokens: int) -> None:
    layer, x = make_layer(name), make_inputs(tokens)
    expected = run_form(layer, layer.reference, x, random_state(layer))
    got = run_form(layer, layer.forward, x, random_state(layer))
    for what, tensor in expected.items():
        assert_close(got[what], tensor, 1e-8, what)

    layer = layer.float()
    expected = run_form(layer, layer.reference, x.float(), random_state(layer, dtype=torch.float32))
    got = run_form(layer, layer.forward, x.float(), random_state(layer, dtype=torch.float32))
    for what, tensor in expected.items():
        assert_close(got[what], tensor, 1e-4, f"float32 {what}")


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("name", SPECS)
def test_steps_equal_reference(name: str, tokens: int) -> None:
    layer, x = make_layer(name), make_inputs(tokens)
    with torch.no_grad():
        state = random_state(layer)
        expected, expected_state = layer.reference(x, state)
        outputs = []
        for t in range(tokens):
            y, state = layer.step(x[:, t], state)
            outputs.append(y)
    assert_close(torch.stack(outputs, 1), expected, 1e-8, "outputs")
    for got, tensor in zip(state_tensors(state), state_tensors(expected_state), strict=True):
        assert_close(got, tensor, 1e-8, "final state")


@pytest.mark.parametrize("name", SPECS)
def test_steps_have_the_gradients_of_the_reference(name: str) -> None:
    layer, x = make_layer(name), make_inputs(9)

    def steps(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for t in range(x.shape[1]):
            y, state = layer.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, 1), state

    expected = run_form(layer, layer.reference, x, random_state(layer))
    got = run_form(layer, steps, x, random_state(layer))
    for what, tensor in expected.items():
        assert_close(got[what], tensor, 1e-8, what)


@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_in_parts_equals_the_whole(name: str) -> None:
    layer, x = make_layer(name), make_inputs(65)
    with torch.no_grad():
        whole, whole_state = layer(x)
        first, state = layer(x[:, :30])
        second, state = layer(x[:, 30:47], state)
        outputs = [first, second]
        for t in range(47, 60):
            y, state = layer.step(x[:, t], state)
            outputs.append(y.unsqueeze(1))
        last, state = layer(x[:, 60:], state)
    assert_close(torch.cat([*outputs, last], 1), whole, 1e-8, "outputs")
    for got, tensor in zip(state_tensors(state), state_tensors(whole_state), strict=True):
        assert_close(got, tensor, 1e-8, "final state")


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_is_near_the_reference(name: str, autocast: bool) -> None:
    layer = make_layer(name, torch.float32)
    x = make_inputs(65).float()
    expected, _ = layer.reference(x)
    if not autocast:
        layer, x = layer.bfloat16(), x.bfloat16()
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y, state = layer(x)
        y.float().square().sum().backward()
        with torch.no_grad():
            stepped, _ = layer.step(x[:, 0], layer.init_state(2, torch.bfloat16))
    assert y.dtype == torch.bfloat16
    if isinstance(layer, MixtureOfExpertsLayer):  # rounded weights send a token near a tie to other experts
        same = routes(layer, x) == routes(make_layer(name), make_inputs(65))
        assert same[:, 0].all()
        assert (~same.all(-1)).sum() <= 1
        y, expected = (tensor * same.all(-1, keepdim=True) for tensor in (y, expected))
    assert (y - expected).norm() < 0.03 * expected.norm()
    assert (stepped - expected[:, 0]).norm() < 0.03 * expected[:, 0].norm()
    assert all(torch.isfinite(tensor).all() for tensor in state_tensors(state))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in (x, *layer.parameters()))


@pytest.mark.parametrize("name", SPECS)
def test_parameters_equal_the_spec(name: str) -> None:
    layer = make_layer(name)
    assert sum(p.numel() for p in layer.parameters()) == SPECS[name].params(HIDDEN) - HIDDEN


@pytest.mark.parametrize("name", SPECS)
def test_a_token_does_not_see_the_future(name: str) -> None:
    layer, x = make_layer(name), make_inputs(65)
    changed = x.clone()
    changed[:, 40:] += 1
    with torch.no_grad():
        before, after = layer(x)[0], layer(changed)[0]
    if SPECS[name].kind == "moe":  # an expert's product rounds by the number of its tokens, later ones included
        assert_close(after[:, :40], before[:, :40], 1e-14, "outputs before the change")
    else:
        assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])
