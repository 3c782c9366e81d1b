"""Our adapters against the reference through stand-ins for the libraries."""

import os
import subprocess
import sys
from pathlib import Path

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
from flashnas.operators.backends import BACKENDS
from flashnas.operators.backends.core import CORES, LIBRARIES, choose_backend, cores_of


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


# -- fla's own kernels under Triton's interpreter --------------------------------------------------


@pytest.mark.slow
def test_recurrent_triton_kernels_equal_the_reference():
    """In a process of its own: Triton reads the variable when it is imported. Float32 only: the
    interpreter gets tl.dot wrong in bfloat16."""
    pytest.importorskip("triton")
    pytest.importorskip("fla")
    script = Path(__file__).parents[1] / "helpers" / "interpreted_kernels.py"
    child = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "FLA_USE_COMPILE": "0", "OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.splitlines() == [
        "delta_rule",
        "gated_delta_rule",
        "rwkv7",
        "rwkv7 steps",
    ], child.stdout


def test_every_library_has_what_its_name_stands_for():
    for name, library in LIBRARIES.items():
        assert library.name == name
        assert set(library.kernels) == {kind for kind, names in CORES.items() if name in names}
        assert library.rounds <= set(library.kernels)
        assert name in BACKENDS
