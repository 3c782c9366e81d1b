"""What every operator of the registry states and computes; a new operator is held to it by its registration
line."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from layer_cases import state_tensors

from flashnas.base.registry import load_object
from flashnas.network.cache import state_bytes
from flashnas.operators import OPERATORS
from flashnas.operators.layer import Layer, build_layer
from flashnas.testing import operator_spec

HIDDEN = 256


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_is_documented(kind: str) -> None:
    operator = OPERATORS[kind]
    for documented in (operator, load_object(operator.layer)):
        assert len(inspect.cleandoc(documented.__doc__ or "")) > 20
        assert "__doc__" in vars(documented)
        assert importlib.import_module(documented.__module__).__doc__
    assert f"`{kind}`" in (operator.__doc__ or "")


@pytest.mark.parametrize("check", [operator_spec.check_statements, operator_spec.check_roles,
                                   operator_spec.check_parameters, operator_spec.check_cache_bytes],
                         ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_keeps_the_shipped_contract_at_its_defaults(kind: str,
                                                                check: operator_spec.Check) -> None:
    check(OPERATORS[kind](), HIDDEN)


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
    for dtype in (torch.float32, torch.bfloat16):
        assert state_bytes(layer.init_state(3, dtype)) == 3 * spec.cache_bytes(HIDDEN, 0, dtype.itemsize)
        layer = layer.to(dtype)
        with torch.no_grad():
            _, state = layer(x.to(dtype))
        assert state_bytes(state) == spec.cache_bytes(HIDDEN, 5, dtype.itemsize)
