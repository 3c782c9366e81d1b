"""Our adapters against the reference through stand-ins for the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_libraries
import pytest
import torch
from adapter_cases import CASES, FLASH, check_in_bfloat16, check_steps, inputs, make, run, state_after
from layer_cases import assert_close
from torch import Tensor

from flashnas.base.errors import OperatorError
from flashnas.operators.attention.layer import attend, attend_step
from flashnas.operators.backends.core import CORE_KINDS, LIBRARIES, Core, choose_backend, cores_of
from flashnas.operators.layer import RecurrentLayer
from flashnas.operators.parts import numerics


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_an_adapter_equals_the_reference(backend: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms, from nothing and from a state, with all gradients."""
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


@pytest.mark.parametrize("backend", ["fla", "mamba-ssm", "numba"])
def test_half_precision_keeps_states_and_decays_in_float32(backend: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins refuse mixed dtypes and states in half precision."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    for _, text in (case for case in CASES if case[0] == backend):
        layer = make(text)
        choose_backend(layer, backend)
        check_in_bfloat16(layer)


@pytest.mark.parametrize(("name", "kind"), [
    (name, kind) for kind in CORE_KINDS for name in CORE_KINDS[kind].on_cuda])
def test_shapes_of_a_real_model_fit_the_libraries(name: str, kind: str,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, which have shapes, strides and dtypes but no values."""
    fake_libraries.install(monkeypatch, *(("flash_attn_interface",) if name == "flash-attn-3" else ()))
    forward, step = LIBRARIES[name].kernels[kind](torch.bfloat16)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    batch, tokens, heads, groups, key, value, half = 3, 4, 32, 8, 128, 64, torch.bfloat16
    state = empty(batch, heads, key, value)
    sizes: dict[str, tuple[list[Any], list[Any]]] = {  # per token and head; the rest
        "attention": ([], []),
        "delta_rule": ([(heads, key), (heads, key), (heads, value), (heads,), None], [state]),
        "gated_delta_rule": ([(heads, key), (heads, key), (heads, value), (heads,), (heads,)], [state]),
        "gla": ([(heads, key), (heads, key), (heads, value), (heads, key)], [state]),
        "kda": ([(heads, key), (heads, key), (heads, value), (heads,), (heads, key)], [state]),
        "dplr": ([(heads, key), (heads, key), (heads, value), *[(heads, key)] * 3], [state]),
        "ssd": ([(groups, key), (groups, key), (heads, value), (heads,)], [empty(heads), state])}
    if kind == "attention":
        q, k = empty(batch, heads, tokens, key, dtype=half), empty(batch, groups, 9, key, dtype=half)
        assert forward(q, k, k, 3).shape == q.shape
        with torch.no_grad():
            assert step(q[:, :, 0], k, k).shape in {(batch, heads, key),
                                                    (batch, groups, heads // groups, key)}
        return
    if kind == "convolution":
        x = empty(batch, tokens, 2 * 1536 + 8, dtype=half)[..., 8:]  # a part of a projection
        y, after = forward(x, empty(batch, 3, 3072, dtype=half), empty(3072, 4), None)
        with torch.no_grad():
            one, _ = step(x[:, 0], after, empty(3072, 4), None)
        assert (y.shape, after.shape, one.shape) == (x.shape, (batch, 3, 3072), (batch, 3072))
        return
    if kind == "norm":
        x, gate, weight = empty(batch, tokens, heads, key, dtype=half), empty(batch, tokens, heads,
                                                                              key), empty(key)
        for found in (forward(x, weight, 1e-5), forward(x, weight, 1e-5, gate).to(half),
                      forward(x, empty(heads, key), 1e-5, gate, True).to(half)):
            assert (found.shape, found.dtype) == (x.shape, half)
        return
    if kind == "token_mix":
        x, mixes = empty(batch, tokens, 64, dtype=half), empty(6, 64)
        for found in (forward(x, x, mixes), forward(x[:, :1], x[:, :1], mixes),
                      step(x[:, 0], x[:, 0], mixes)):
            assert (len(found), found[0].dtype, found[0].shape[-1]) == (6, half, 64)
        return
    if kind == "selective_scan":
        x, b, a = empty(batch, tokens, 3072), empty(batch, tokens, 16), empty(16, 3072)
        y, final = forward(x, x, a, b, b, None)
        with torch.no_grad():
            one, after = step(x[:, 0], x[:, 0], a, b[:, 0], b[:, 0], final)
        assert (y.shape, one.shape) == (x.shape, x[:, 0].shape)
        assert final.shape == after.shape == (batch, 16, 3072)
        return
    parts, rest = sizes[kind]
    o, final = forward(*(None if part is None else empty(batch, tokens, *part) for part in parts), *rest)
    assert (o.shape, o.dtype) == ((batch, tokens, heads, value), torch.float32)
    with torch.no_grad():
        one, after = step(*(None if part is None else empty(batch, *part) for part in parts), *rest[:-1],
                          final)
    assert one.shape == (batch, heads, value)
    assert final.shape == after.shape == state.shape
    assert final.dtype == after.dtype == torch.float32


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
                                        if name in (*core.on_cuda, *core.on_cpu)}
        assert library.rounds <= set(library.kernels)


# -- the beginning of a sequence, and what a GPU's generation prefers ----------------------------------------


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_a_sequence_begins_without_zeros_on_a_gpu(backend: str, text: str,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins refuse a state that is one number; with none the numbers and gradients are the same."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    monkeypatch.setattr(numerics, "_shares_zeros", lambda device: True)
    layer = make(text)
    choose_backend(layer, backend)
    if isinstance(layer, RecurrentLayer):
        assert all(not any(part.stride()) for part in layer.fresh_state(2, torch.float32, "cpu"))
    expected, got = (run(form, layer, inputs(19), None) for form in (layer.reference, layer.forward))
    for what, tensor in expected.items():
        assert_close(got[what], tensor, 2e-4, what)


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
