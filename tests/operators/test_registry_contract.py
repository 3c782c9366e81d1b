"""What every operator of the registry states and computes; a new operator is held to it by its registration line."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
import torch
from layer_cases import state_tensors

from flashnas.network.cache import state_bytes
from flashnas.operators import OPERATORS
from flashnas.operators.layer import Layer, build_layer
from flashnas.operators.roles import OWN_RATES, Role
from flashnas.registry import load_object

HIDDEN = 256


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_states_what_readers_see(kind: str) -> None:
    operator = OPERATORS[kind]
    assert operator.kind == kind
    assert re.fullmatch(r"[a-z][a-z0-9_]*", operator.name)
    assert operator.label
    assert operator.family
    assert re.fullmatch(r"#[0-9A-F]{6}", operator.colour)
    for stated in ("name", "label", "colour"):
        others = {getattr(other, stated) for other in OPERATORS.values() if other is not operator}
        assert getattr(operator, stated) not in others, stated
    for documented in (operator, load_object(operator.layer)):
        assert len(inspect.cleandoc(documented.__doc__ or "")) > 20
        assert "__doc__" in vars(documented)
        assert importlib.import_module(documented.__module__).__doc__
    assert f"`{kind}`" in (operator.__doc__ or "")


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_declares_roles_for_all_its_parameters(kind: str) -> None:
    layer = build_layer(OPERATORS[kind](), HIDDEN)
    declared, shapes = layer.parameter_roles(), {name: p.shape for name, p in layer.named_parameters()}
    assert set(declared) == set(shapes)
    assert {OWN_RATES[role] for role in declared.values() if role in OWN_RATES} == set(OPERATORS[kind].own_rates)
    for name, shape in shapes.items():
        role = declared[name]
        if role in (Role.READS, Role.GATE_READS, Role.ROUTER):
            assert shape[-1] == HIDDEN, name
        elif role is Role.WRITES and len(shape) > 1:
            assert shape[-2] == HIDDEN, name
        elif role in (Role.NORM, Role.BIAS, Role.VECTOR):
            assert len(shape) == 1, name
    assert Role.WRITES in declared.values()


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_has_kernels_in_both_phases(kind: str) -> None:
    spec = OPERATORS[kind]()
    for phase in ("prefill", "decode"):
        calls = spec.kernels(HIDDEN, phase)  # type: ignore[arg-type]
        assert calls
        assert all(size > 0 or name == "window" for call in calls for name, size in call.shape)
        assert all(call.label for call in calls)


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_has_three_forms_that_agree_and_the_memory_that_it_states(kind: str) -> None:
    torch.manual_seed(0)
    spec, x = OPERATORS[kind](), torch.randn(1, 5, HIDDEN, dtype=torch.float64)
    layer = build_layer(spec, HIDDEN).double()
    for form in ("init_state", "reference", "forward", "step"):
        assert getattr(type(layer), form) is not getattr(Layer, form), form
    with torch.no_grad():
        expected, reference_state = layer.reference(x)
        got, state = layer(x)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
        stepped, outputs = layer.init_state(1, torch.float64), []
        for t in range(5):
            y, stepped = layer.step(x[:, t], stepped)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, 1), expected, rtol=1e-8, atol=1e-8)
    for one, other, third in zip(*map(state_tensors, (state, stepped, reference_state)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(one, third, rtol=1e-8, atol=1e-8)
    assert sum(p.numel() for p in layer.parameters()) == spec.params(HIDDEN) - HIDDEN  # and the pre-norm
    for dtype in (torch.float32, torch.bfloat16):
        assert state_bytes(layer.init_state(3, dtype)) == 3 * spec.cache_bytes(HIDDEN, 0, dtype.itemsize)
        layer = layer.to(dtype)
        with torch.no_grad():
            _, state = layer(x.to(dtype))
        assert state_bytes(state) == spec.cache_bytes(HIDDEN, 5, dtype.itemsize)
