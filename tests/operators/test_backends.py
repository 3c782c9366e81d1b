"""Our adapters against the reference through stand-ins for the libraries."""

import fake_libraries
import pytest
from adapter_cases import (
    CASES,
    FLASH,
    check_in_bfloat16,
    check_steps,
    inputs,
    make,
    run,
    state_after,
)
from layer_cases import assert_close

from flashnas.base.errors import OperatorError
from flashnas.operators.backends.core import choose_backend, cores_of


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_an_adapter_equals_the_reference(backend, text, monkeypatch):
    """Both forms, from nothing and from a state, with all gradients."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, backend)
    assert [core.of(inputs(1)).name for core in cores_of(layer)] == [f"{backend} 0.0-fake"]
    for tokens, state in ((19, None), (1, state_after(layer, 9)), (7, state_after(layer, 9))):
        expected, got = (
            run(form, layer, inputs(tokens), state) for form in (layer.reference, layer.forward)
        )
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, f"{tokens} tokens, {what}")
    check_steps(layer, 1e-4)


@pytest.mark.parametrize("text", FLASH)
def test_flash_attention_equals_the_reference(text, monkeypatch):
    """It takes half precision only; so do its stand-ins."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "flash-attn")
    with pytest.raises(
        OperatorError, match=r"backend flash-attn cannot run it: it takes bfloat16 and float16 only"
    ):
        layer(inputs(3))
    check_in_bfloat16(layer)


@pytest.mark.parametrize("backend", ["fla", "mamba-ssm"])
def test_half_precision_keeps_states_and_decays_in_float32(backend, monkeypatch):
    """The stand-ins refuse mixed dtypes and states in half precision."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    for _, text in (case for case in CASES if case[0] == backend):
        layer = make(text)
        choose_backend(layer, backend)
        check_in_bfloat16(layer)
