"""Our adapters against the reference through stand-ins for the libraries."""

import fake_libraries
import pytest
import torch
from cases import cases

from flashnas.architecture import parse_operators
from flashnas.operators.backends.core import choose_backend, cores_of
from flashnas.testing.forms import (
    assert_close,
    make_inputs,
    make_layer,
    random_state,
    run_form,
    state_tensors,
    steps_of,
)
from flashnas.testing.self_test import check_layer

HIDDEN = 64
CASES = cases("operators", "fla_and_mamba")
FLASH = cases("operators", "flash_attention")


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    fake_libraries.install(monkeypatch, devices=("cpu",))


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_an_adapter_equals_the_reference(backend, text):
    """Both forms, from nothing and from a state, with all gradients; the last state of a selective
    scan has none."""
    layer = make_layer(parse_operators(text)[0], HIDDEN, torch.float32)
    choose_backend(layer, backend)
    for tokens, started in ((19, False), (1, True), (7, True)):
        x = make_inputs(tokens, HIDDEN).float()
        assert [core.of(x).name for core in cores_of(layer)] == [f"{backend} 0.0-fake"]
        expected, got = (
            run_form(
                layer,
                form,
                x,
                random_state(layer, torch.float32) if started else None,
                through_state=not text.startswith("m("),
            )
            for form in (layer.reference, layer.forward)
        )
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, f"{tokens} tokens, {what}")
    with torch.no_grad():
        state = random_state(layer, torch.float32)
        right, right_after = layer.reference(x, state)
        y, after = steps_of(layer, x, state)  # which may write into the state
    assert_close(y, right, 1e-4, "steps")
    for tensor, wanted in zip(state_tensors(after), state_tensors(right_after), strict=True):
        assert_close(tensor, wanted, 1e-4, "state after the steps")


@pytest.mark.parametrize(("backend", "text"), CASES + FLASH)
def test_half_precision_is_near_the_reference(backend, text):
    """By autocast, and as a model in bfloat16. The stand-ins refuse mixed dtypes and states in half
    precision."""
    found = check_layer(text, backend, "bfloat16", tokens=19, hidden=HIDDEN)
    assert (found.status, found.reason) == ("passed", "")
    assert found.runs == f"{backend} 0.0-fake"


def test_flash_attention_takes_half_precision_only():
    found = check_layer(FLASH[0][1], "flash-attn", "float32", tokens=3, hidden=HIDDEN)
    assert found.status == "refused"
    assert "it takes bfloat16 and float16 only" in found.reason
