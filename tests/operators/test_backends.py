"""Our adapters against the reference through stand-ins for the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fake_libraries
import pytest
import torch
from adapter_cases import CASES, FLASH, check_in_bfloat16, check_steps, inputs, make, run, state_after
from layer_cases import assert_close

from flashnas.base.errors import OperatorError
from flashnas.operators.attention.layer import attend, attend_step
from flashnas.operators.backends.core import CORE_KINDS, LIBRARIES, Core, choose_backend, cores_of
from flashnas.operators.layer import RecurrentLayer
from flashnas.operators.parts import numerics


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_an_adapter_equals_the_reference(backend: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms, from nothing and from a state, with all gradients. On a GPU a sequence begins without zeros: the
    stand-ins refuse a state that is one number, and with none the numbers are the same."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, backend)
    names = {core.kind.name: core.of(inputs(1)).name for core in cores_of(layer)}
    assert any(name != "torch" for name in names.values()), names
    for tokens, state in ((19, None), (1, state_after(layer, 9)), (7, state_after(layer, 9))):
        expected, got = (run(form, layer, inputs(tokens), state) for form in (layer.reference, layer.forward))
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, f"{tokens} tokens, {what}")
    check_steps(layer, 1e-4)
    monkeypatch.setattr(numerics, "_shares_zeros", lambda device: True)
    if isinstance(layer, RecurrentLayer):
        assert all(not any(part.stride()) for part in layer.fresh_state(2, torch.float32, "cpu"))
    expected, got = (run(form, layer, inputs(19), None) for form in (layer.reference, layer.forward))
    for what, tensor in expected.items():
        assert_close(got[what], tensor, 2e-4, f"begun without zeros, {what}")


@pytest.mark.parametrize("text", FLASH)
def test_flash_attention_equals_the_reference(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half precision only; so do its stand-ins."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "flash-attn")
    with pytest.raises(OperatorError,
                       match=r"backend flash-attn cannot run it: it takes bfloat16 and float16 only"):
        layer(inputs(3))
    check_in_bfloat16(layer)


@pytest.mark.parametrize("backend", ["fla", "mamba-ssm"])
def test_half_precision_keeps_states_and_decays_in_float32(backend: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins refuse mixed dtypes and states in half precision."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    for _, text in (case for case in CASES if case[0] == backend):
        layer = make(text)
        choose_backend(layer, backend)
        check_in_bfloat16(layer)


# -- fla's own kernels under Triton's interpreter ------------------------------------------------------------


@pytest.mark.slow
def test_recurrent_triton_kernels_equal_the_reference() -> None:
    """In a process of its own: Triton reads the variable when it is imported. Float32 only: the interpreter
    gets tl.dot wrong in bfloat16."""
    pytest.importorskip("triton")
    pytest.importorskip("fla")
    script = Path(__file__).parents[1] / "helpers" / "interpreted_kernels.py"
    child = subprocess.run([sys.executable, str(script)], capture_output=True, text=True,
                           env={**os.environ, "TRITON_INTERPRET": "1", "FLA_USE_COMPILE": "0",
                                "OMP_NUM_THREADS": "1"})
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.splitlines() == ["delta_rule", "gated_delta_rule", "raw delta_rule",
                                         "raw gated_delta_rule", "raw kda", "norm silu", "norm sigmoid",
                                         "norm silu first", "rwkv7", "rwkv7 bounded",
                                         "rwkv7 steps"], child.stdout


def test_every_library_is_reachable() -> None:
    for name, library in LIBRARIES.items():
        assert library.name == name
        assert set(library.kernels) == {kind for kind, core in CORE_KINDS.items()
                                        if name in core.on_cuda}
        assert library.rounds <= set(library.kernels)


# -- the beginning of a sequence, and what a GPU's generation prefers ----------------------------------------


def test_zeros_that_were_given_are_a_state() -> None:
    assert numerics.is_fresh(torch.zeros(()).expand(2, 3, 4))
    for state in (torch.zeros(2, 3, 4), torch.zeros(1, 1, 1), torch.zeros(2, 1, 1).expand(2, 3, 4)):
        assert not numerics.is_fresh(state)
    cpu = numerics.fresh_zeros(2, 3, dtype=torch.float32, device="cpu")
    assert cpu.is_contiguous()
    assert not numerics.is_fresh(numerics.fresh_zeros(2, 3, dtype=torch.float32, device="cpu"))


@pytest.mark.parametrize(("capability", "cudnn", "name"), [
    ((9, 0), 91600, "sdpa, steps flash-attn"), ((9, 0), 90800, "flash-attn"), ((8, 0), 91600, "flash-attn")])
def test_hopper_reads_prompts_by_cudnn_and_decodes_by_flash_attn(capability: tuple[int, int], cudnn: int,
                                                                 name: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch, devices=("cpu",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    core = Core("attention", "attention", (attend, attend_step), head_dim=16)
    kernels = core.kernels("cuda", torch.bfloat16)
    assert kernels.name.replace(" 0.0-fake", "").replace(f" {torch.__version__}", "") == name
    core.choose("flash-attn")
    assert core.kernels("cuda", torch.bfloat16).name == "flash-attn 0.0-fake", "who asks for it gets it"
    q, k, v = (torch.randn(1, 2, 9, 16, dtype=torch.bfloat16) for _ in range(3))
    used: list[str] = []
    flash = sys.modules["flash_attn"].flash_attn_func
    monkeypatch.setattr(sys.modules["flash_attn"], "flash_attn_func",
                        lambda *a, **k: used.append("fa") or flash(*a, **k))
    core.choose("auto")
    forward = core.kernels("cuda", torch.bfloat16).forward
    for window, tokens, masked in ((0, 9, False), (20, 9, False), (4, 9, True), (0, 5, True)):
        used.clear()
        with torch.no_grad():
            got = forward(q[:, :, 9 - tokens:], k, v, window)
        assert used == (["fa"] if masked or name == "flash-attn" else [])
        assert_close(got.float(), attend(q[:, :, 9 - tokens:].float(), k.float(), v.float(), window), 3e-2,
                     "attention")
