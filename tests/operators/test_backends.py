"""Backends: which library is taken, and our adapters against the reference through stand-ins for the libraries."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_libraries
import pytest
import torch
from layer_cases import assert_close, state_tensors, weighted_sum
from torch import Tensor

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import ConfigError, OperatorError
from flashnas.network.model import HybridLM
from flashnas.operators.attention.layer import KeyValueCache, attend, attend_step
from flashnas.operators.backends import fla, library
from flashnas.operators.backends.core import PREFERRED, Core, choose_backend, cores_of, load, surrounding
from flashnas.operators.layer import Layer, RecurrentLayer, RecurrentState, build_layer
from flashnas.operators.parts import numerics
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import backends_of
from flashnas.training.recipe import Recipe

HIDDEN = 64
NUMBA = f"numba {importlib.metadata.version('numba')}"
CASES = [
    ("fla", "d(head_dim=16)"), ("fla", "gd(head_dim=16,k_heads=2,expand_v=2)"), ("fla", "gla(head_dim=32)"),
    ("fla", "m2(head_dim=16,state=24,groups=2,conv_size=3)"), ("fla", "m2(head_dim=16,state=16)"),
    ("mamba-ssm", "m2(head_dim=16,state=24,groups=2,conv_size=3)"), ("mamba-ssm", "m2(head_dim=16,state=16)"),
    ("fla", "kda(head_dim=16)"), ("fla", "r7(head_dim=16)"), ("mamba-ssm", "m(state=8)"),
    ("mamba-ssm", "d(head_dim=16)"),  # the convolution only
    ("numba", "d(head_dim=16)"), ("numba", "gd(head_dim=16,k_heads=2,expand_v=2)"), ("numba", "kda(head_dim=32)"),
    ("numba", "r7(head_dim=16)"), ("numba", "m2(head_dim=16,state=24,groups=2,conv_size=3)"),
    ("numba", "m2(head_dim=8,state=8)"), ("numba", "gla(head_dim=32)"), ("numba", "m(state=5)"),
    ("sdpa", "a(heads=4,kv_heads=2,head_dim=16)"), ("sdpa", "swa(heads=4,kv_heads=2,head_dim=16,window=5)"),
    ("sdpa", "a(heads=4,kv_heads=4,head_dim=16,out_gate=true)"),
]
FLASH = ["a(heads=4,kv_heads=2,head_dim=16)", "swa(heads=4,kv_heads=2,head_dim=16,window=5)",
         "a(heads=4,kv_heads=4,head_dim=16,out_gate=true)"]


def make(text: str) -> Layer:
    torch.manual_seed(0)
    layer = build_layer(parse_operators(text)[0], HIDDEN)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return layer


def inputs(tokens: int) -> Tensor:
    torch.manual_seed(tokens)
    return torch.randn(2, 1, HIDDEN) + 0.3 * torch.randn(2, tokens, HIDDEN)


def run(form: Any, layer: Layer, x: Tensor, state: Any) -> dict[str, Tensor]:
    """Output, states and gradients of inputs, weights and (recurrent) states."""
    x = x.clone().requires_grad_()
    leaves = {"x": x, **dict(layer.named_parameters())}
    if isinstance(state, RecurrentState):
        state = RecurrentState(*(part.clone().requires_grad_() for part in state))
        leaves |= {f"state {n}": part for n, part in enumerate(state)}
    y, after = form(x, state)
    told = None if getattr(layer.core, "kind", "") == "selective_scan" else after  # whose state has no gradient
    gradients = torch.autograd.grad(weighted_sum(y, told), list(leaves.values()), allow_unused=True)
    results = {"output": y, **{f"final state {n}": part for n, part in enumerate(state_tensors(after))}}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in results.items()}


def state_after(layer: Layer, tokens: int) -> Any:
    with torch.no_grad():
        state = layer.reference(inputs(tokens + 100)[:, :tokens])[1]
    if isinstance(state, KeyValueCache):
        return KeyValueCache(state.keys_BGTK.float(), state.values_BGTK.float(), state.seen, state.window)
    return RecurrentState(*(part.float() for part in state))


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_an_adapter_equals_the_reference(backend: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms, from nothing and from a state, with all gradients."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, backend)
    names = {core.kind: core.of(inputs(1)).name for core in cores_of(layer)}
    assert any(name != "torch" for name in names.values()), names
    for tokens, state in ((19, None), (1, state_after(layer, 9)), (7, state_after(layer, 9))):
        expected, got = (run(form, layer, inputs(tokens), state) for form in (layer.reference, layer.forward))
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, f"{tokens} tokens, {what}")
    check_steps(layer, 1e-4)


def check_steps(layer: Layer, tolerance: float) -> None:
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


@pytest.mark.parametrize("text", FLASH)
def test_flash_attention_equals_the_reference(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half precision only; so do its stand-ins."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "flash-attn")
    with pytest.raises(OperatorError, match=r"backend flash-attn cannot run it: it takes bfloat16 and float16 only"):
        layer(inputs(3))
    check_in_bfloat16(layer)


@pytest.mark.parametrize("backend", ["fla", "mamba-ssm", "numba"])
def test_half_precision_keeps_states_and_decays_in_float32(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins refuse mixed dtypes and states in half precision."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    for _, text in (case for case in CASES if case[0] == backend):
        layer = make(text)
        choose_backend(layer, backend)
        check_in_bfloat16(layer)


def check_in_bfloat16(layer: Layer) -> None:
    """As a model in bfloat16 and under autocast: near the reference, states in the dtypes of the torch code."""
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
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (x_now, *model.parameters()))
        if isinstance(state, RecurrentState):
            assert state.matrix_BHKV.dtype == torch.float32


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for kind in PREFERRED for name in PREFERRED[kind]])
def test_shapes_of_a_real_model_fit_the_libraries(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, which have shapes, strides and dtypes but no values."""
    fake_libraries.install(monkeypatch, *(("flash_attn_interface",) if name == "flash-attn-3" else ()))
    forward, step = load(name).kernels[kind](torch.bfloat16)

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
            assert step(q[:, :, 0], k, k).shape in {(batch, heads, key), (batch, groups, heads // groups, key)}
        return
    if kind == "convolution":
        x = empty(batch, tokens, 2 * 1536 + 8, dtype=half)[..., 8:]  # a part of a projection
        y, after = forward(x, empty(batch, 3, 3072, dtype=half), empty(3072, 4), None)
        with torch.no_grad():
            one, _ = step(x[:, 0], after, empty(3072, 4), None)
        assert (y.shape, after.shape, one.shape) == (x.shape, (batch, 3, 3072), (batch, 3072))
        return
    if kind == "norm":
        x, gate, weight = empty(batch, tokens, heads, key, dtype=half), empty(batch, tokens, heads, key), empty(key)
        for found in (forward(x, weight, 1e-5), forward(x, weight, 1e-5, gate).to(half),
                      forward(x, empty(heads, key), 1e-5, gate, True).to(half)):
            assert (found.shape, found.dtype) == (x.shape, half)
        return
    if kind == "token_mix":
        x, mixes = empty(batch, tokens, 64, dtype=half), empty(6, 64)
        for found in (forward(x, x, mixes), forward(x[:, :1], x[:, :1], mixes), step(x[:, 0], x[:, 0], mixes)):
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
        one, after = step(*(None if part is None else empty(batch, *part) for part in parts), *rest[:-1], final)
    assert one.shape == (batch, heads, value)
    assert final.shape == after.shape == state.shape
    assert final.dtype == after.dtype == torch.float32


# -- the choice ------------------------------------------------------------------------------------------------------

ALL = "a d gd gla m2 kda r7 m f"
RECURRENT = ("d", "gd", "gla", "kda", "r7")
AUTO = [  # packages at hand (none named: all), dtype, what auto takes on CUDA
    (("nothing",), "bfloat16", {"a": "sdpa", **dict.fromkeys(RECURRENT, "torch"), "m2": "torch", "m": "torch",
                                "conv": "torch"}),
    (("fla",), "bfloat16", {"a": "sdpa", **dict.fromkeys(RECURRENT, "fla"), "m2": "fla", "m": "torch", "conv": "fla"}),
    (("fla", "mamba_ssm"), "bfloat16", {"a": "sdpa", **dict.fromkeys(RECURRENT, "fla"), "m2": "mamba-ssm",
                                        "m": "torch", "conv": "fla"}),  # built without selective_scan_cuda
    ((), "bfloat16", {"a": "flash-attn", **dict.fromkeys(RECURRENT, "fla"), "m2": "mamba-ssm", "m": "mamba-ssm",
                      "conv": "causal-conv1d"}),
    ((), "float32", {"a": "sdpa", **dict.fromkeys(RECURRENT, "torch, steps fla"), "m2": "torch, steps mamba-ssm",
                     "m": "mamba-ssm", "conv": "causal-conv1d"}),
    ((), "float64", {"a": "sdpa", **dict.fromkeys(RECURRENT, "torch"), "m2": "torch", "m": "torch", "conv": "torch"}),
]


def on_cuda(model: HybridLM, dtype: torch.dtype) -> dict[str, str]:
    from flashnas.operators.backends.core import running
    kinds = (spec.kind for spec in model.architecture.operators)
    names = running(zip(kinds, model.layers, strict=True), "cuda", dtype)
    return {kind: name.replace(" 0.0-fake", "").split(" 2.")[0] for kind, name in names.items()}


@pytest.mark.parametrize(("packages", "dtype", "expected"), AUTO)
def test_auto_takes_the_best_that_is_at_hand(packages: tuple[str, ...], dtype: str, expected: dict[str, str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch, *packages)
    model = HybridLM(Architecture.parse(f"256(vocab=300): {ALL}"))
    assert on_cuda(model, getattr(torch, dtype)) == {**expected, "f": "torch"}
    assert set(model.backends().values()) == {"torch", NUMBA}, "on a CPU nothing changes"


@pytest.mark.parametrize(("backend", "expected"), [
    ("torch", {"a": "torch", "d": "torch", "m2": "torch", "conv": "torch"}),
    ("sdpa", {"a": "sdpa", "d": "torch", "m2": "torch", "conv": "torch"}),
    ("fla", {"a": "sdpa", "d": "fla", "m2": "fla", "conv": "fla"}),
    ("mamba-ssm", {"a": "sdpa", "d": "torch", "m2": "mamba-ssm", "conv": "causal-conv1d"}),
    ("flash-attn", {"a": "flash-attn", "d": "torch", "m2": "torch", "conv": "torch"})])
def test_a_chosen_library_computes_what_it_covers(backend: str, expected: dict[str, str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    model = HybridLM(Architecture.parse("256(vocab=300): a d m2"), backend)
    assert on_cuda(model, torch.bfloat16) == expected


def test_several_answers_for_one_kind_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    model = HybridLM(Architecture.parse("256(vocab=300): d(head_dim=8) d(head_dim=32)"))
    assert on_cuda(model, torch.bfloat16)["d"] == "torch + fla"


@pytest.mark.parametrize(("backend", "text", "packages", "line"), [
    ("mamba-ssm", "m2", ("fla",), "operator mamba2: backend mamba-ssm cannot run it: the package fake-mamba-ssm is not"
                                  " installed; allowed here: auto, torch, numba"),
    ("flash-attn", "d f", ("fla",), "backend flash-attn: the package fake-flash-attn is not installed"),
    ("flash", "a", (), "backend must be one of auto, torch, fla, mamba-ssm, flash-attn, sdpa, numba; got 'flash' (did"
                       " you mean 'fla'?)")])
def test_what_is_not_there_is_one_line(backend: str, text: str, packages: tuple[str, ...], line: str,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch, *packages)
    with pytest.raises(OperatorError) as error:
        HybridLM(Architecture.parse(f"256(vocab=300): {text}"), backend)
    assert str(error.value) == line


def test_an_installed_library_that_is_broken_or_too_old_is_a_reason(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """A library built for another torch raises when it is imported; `auto` takes the next one."""
    for package, code in (("mamba_ssm", "raise ImportError('selective_scan_cuda.so: undefined symbol')"),
                          ("causal_conv1d", ""), ("fla", "")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code + "\n")
    for name, release in (("mamba_ssm", "2.3.1"), ("causal_conv1d", "1.3.9"), ("flash_linear_attention", "0.5.2")):
        info = tmp_path / f"{name}-{release}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {release}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] in ("mamba_ssm", "causal_conv1d", "fla")]:
        monkeypatch.delitem(sys.modules, name)
    library._broken.cache_clear()
    try:
        assert [load(name).missing() for name in ("mamba-ssm", "causal-conv1d", "fla", "flash-attn")] == [
            "the package mamba-ssm 2.3.1 cannot be imported: ImportError: selective_scan_cuda.so: undefined symbol",
            "causal-conv1d 1.3.9 is too old; 1.4 or later is needed",
            "flash-linear-attention 0.5.2 is too old; 0.6 or later is needed",
            "the package flash-attn is not installed"]
        assert make("m2").core.kernels("cuda", torch.bfloat16).name == "torch"
        assert set(make("m2").core.passed_over("cuda", torch.bfloat16)) == {"mamba-ssm", "fla"}
    finally:
        library._broken.cache_clear()
        for name in ("mamba_ssm", "causal_conv1d", "fla"):
            sys.modules.pop(name, None)


def test_a_package_without_the_functions_that_are_called_is_a_reason(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn 4 alone leaves a namespace package flash_attn, which can be imported and has nothing in it; fla may
    lack one function of a core."""
    fake_libraries.install(monkeypatch, "fla")
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").write_text("def flash_attn_func(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn")
    monkeypatch.delattr(sys.modules["fla.ops.rwkv7.fused_k_update"], "fused_k_rwkv7")
    reason = ("the package flash_attn here has no flash_attn_func, flash_attn_with_kvcache, which fake-flash-attn has")
    try:
        assert load("flash-attn").missing() == reason
        model = HybridLM(Architecture.parse("256(vocab=300): a d r7"))
        assert on_cuda(model, torch.bfloat16) == {"a": "sdpa", "d": "fla", "conv": "fla", "r7": "torch"}
        assert model.layers[2].mixer.core.passed_over("cuda", torch.bfloat16)["fla"].startswith(
            "fake-fla 0.0-fake cannot be used: ImportError: cannot import name 'fused_k_rwkv7'")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert "flash" not in Setup(device="cuda").stack
        with pytest.raises(OperatorError) as error:
            choose_backend(model, "flash-attn")
        assert str(error.value) == (f"operator attention: backend flash-attn cannot run it: {reason}; allowed here:"
                                    " auto, torch, sdpa")
    finally:
        sys.modules.pop("flash_attn", None)


@pytest.mark.parametrize(("triton", "refused"), [("3.3.1", False), ("3.4.0", True), ("3.6.0", True), ("3.7.1", False)])
def test_gated_rules_are_not_trained_by_fla_on_hopper_with_some_releases_of_triton(
        triton: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: triton if name == "triton" else real(name))
    fla._hopper.cache_clear()
    try:
        core = make("gd(head_dim=16)").core
        assert core.kernels("cuda", torch.bfloat16).name.startswith("torch" if refused else "fla")
        assert ("Triton 3.7.1 or later is needed" in str(core.passed_over("cuda", torch.bfloat16))) is refused
        assert make("gla(head_dim=32)").core.kernels("cuda", torch.bfloat16).name.startswith("fla"), "it has no guard"
    finally:
        fla._hopper.cache_clear()


def test_a_chosen_library_that_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    model = HybridLM(Architecture.parse("64(vocab=300): d(head_dim=8)"), "fla")
    with pytest.raises(OperatorError) as error:
        model(torch.zeros(1, 3, dtype=torch.long))
    assert str(error.value) == ("operator delta_net: backend fla cannot run it: it runs on cuda only; the tensors are"
                                " on cpu; allowed here: auto, torch")
    with pytest.raises(OperatorError, match=r"backend fla cannot run it: it takes a key_dim of 16 to 256; got 8;"
                                            r" allowed here: auto, torch$"):
        on_cuda(model, torch.bfloat16)
    with pytest.raises(OperatorError, match=r"it has no float64"):
        on_cuda(model, torch.float64)


def test_steps_with_gradients_are_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries' steps have no backward pass; the stand-ins refuse a call with gradients on."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("m2(head_dim=16,state=16)")
    choose_backend(layer, "mamba-ssm")
    x = inputs(1)[:, 0].requires_grad_()
    y, _ = layer.step(x, layer.init_state(2, torch.float32))
    y.sum().backward()
    assert x.grad is not None


def test_the_choice_on_cuda_is_made_once_for_each_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    core, asked = make("d(head_dim=16)").core, []
    monkeypatch.setattr(Core, "kernels", lambda self, device, dtype: asked.append(dtype) or (device, dtype))

    class OnCuda:
        is_cuda = True

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    for dtype in (torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16):
        assert core.of(OnCuda(dtype)) == ("cuda", dtype)  # type: ignore[arg-type]
    assert asked == [torch.bfloat16, torch.float32]


# -- records ---------------------------------------------------------------------------------------------------------


def test_a_job_names_the_libraries_in_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch, "fla", "flash_attn")
    plain, version = f"torch-{torch.__version__}-1t", NUMBA.replace(" ", "-")
    stacks = [Setup(backend=name).stack for name in ("auto", "torch", "sdpa", "numba")]
    assert stacks == [f"{plain}-{version}", f"{plain}-by-torch", f"{plain}-by-sdpa", f"{plain}-{version}-by-numba"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "numba", None)
        assert [Setup(backend=name).stack for name in ("auto", "torch")] == [plain, plain]
    assert "backend" not in Setup().describe_stack()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto, only, none = (Setup(device="cuda", backend=name) for name in ("auto", "fla", "torch"))
    assert auto.stack.endswith("-fla-0.0-fake-flash-attn-0.0-fake")
    assert only.stack.endswith("-fla-0.0-fake-by-fla")
    assert none.stack.endswith("-by-torch")
    assert only.describe_stack()["libraries"] == {"fla": "0.0-fake"}
    assert only.describe_stack()["backend"] == "fla"
    specs = parse_operators("a(head_dim=16) d(head_dim=16) f")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert backends_of(specs, HIDDEN, auto) == {"a": "flash-attn 0.0-fake", "d": "fla 0.0-fake", "conv": "fla 0.0-fake",
                                                "f": "torch"}
    with pytest.raises(ConfigError, match=r"^--backend must be one of auto, torch, fla"):
        Setup(backend="triton")


def test_a_recipe_checks_and_keeps_its_backend() -> None:
    assert Recipe().to_dict()["backend"] == "auto"
    assert Recipe.from_dict(Recipe(backend="sdpa").to_dict()).backend == "sdpa"
    with pytest.raises(ConfigError, match=r"^recipe.backend must be one of auto, torch, fla, .*got 'cudnn'"):
        Recipe(backend="cudnn")


# -- fla's own kernels under Triton's interpreter --------------------------------------------------------------------


@pytest.mark.slow
def test_recurrent_triton_kernels_equal_the_reference() -> None:
    """In a process of its own: Triton reads the variable when it is imported. Float32 only: the interpreter gets
    tl.dot wrong in bfloat16."""
    pytest.importorskip("triton")
    pytest.importorskip("fla")
    script = Path(__file__).parents[1] / "helpers" / "interpreted_kernels.py"
    child = subprocess.run([sys.executable, str(script)], capture_output=True, text=True,
                           env={**os.environ, "TRITON_INTERPRET": "1", "FLA_USE_COMPILE": "0", "OMP_NUM_THREADS": "1"})
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.splitlines() == ["delta_rule", "gated_delta_rule", "raw delta_rule", "raw gated_delta_rule",
                                         "raw kda", "norm silu", "norm sigmoid", "norm silu first", "rwkv7",
                                         "rwkv7 bounded", "rwkv7 steps"], child.stdout


def test_every_library_is_reachable() -> None:
    from flashnas.operators.backends import core as backends
    for name in backends.MODULES:
        library = load(name)
        assert library.name == name
        assert set(library.kernels) == {kind for kind in backends.PREFERRED if name in backends.covering(kind)}
        assert library.rounds <= set(library.kernels)


# -- the beginning of a sequence, and what a GPU's generation prefers --------------------------------------------------


@pytest.mark.parametrize(("backend", "text"), CASES)
def test_a_sequence_begins_without_zeros_on_a_gpu(backend: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_hopper_reads_prompts_by_cudnn_and_decodes_by_flash_attn(capability: tuple[int, int], cudnn: int, name: str,
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
        assert_close(got.float(), attend(q[:, :, 9 - tokens:].float(), k.float(), v.float(), window), 3e-2, "attention")


# -- raw forms: norms, gates and time steps inside the library's kernels -----------------------------------------------

RAW = [(backend, text) for backend, text in CASES if (backend, text.split("(")[0]) in {
    ("fla", "d"), ("fla", "gd"), ("fla", "gla"), ("fla", "kda"), ("fla", "r7"), ("mamba-ssm", "m2"),
    ("mamba-ssm", "m")}]


def without_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a layer of a plugin, which hands over what our torch functions take."""
    made = Core.__init__
    monkeypatch.setattr(Core, "__init__", lambda self, *a, **k: made(self, *a, **{**k, "raw": False}))


@pytest.mark.parametrize(("backend", "text"), RAW)
def test_an_adapter_without_raw_parts_equals_the_reference(backend: str, text: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch, devices=("cpu",))
    without_raw(monkeypatch)
    layer = make(text)
    choose_backend(layer, backend)
    kernels = layer.core.of(inputs(1))
    assert (kernels.raw_forward, kernels.raw_step) == (None, None)
    for state in (None, state_after(layer, 9)):
        expected, got = (run(form, layer, inputs(7), state) for form in (layer.reference, layer.forward))
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, what)
    check_steps(layer, 1e-4)


class Spy:
    """Records the keyword arguments of a library's function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        real = getattr(sys.modules[module], name)

        def spied(*arguments: Any, **named: Any) -> Any:
            self.calls.append((arguments, named))
            return real(*arguments, **named)

        monkeypatch.setattr(sys.modules[module], name, spied)


INSIDE = ("use_qk_l2norm_in_kernel", "use_beta_sigmoid_in_kernel", "use_gate_in_kernel")


@pytest.mark.parametrize(("text", "module", "forward", "step", "inside"), [
    ("d(head_dim=16)", "delta_rule", "chunk_delta_rule", "", INSIDE[:1]),
    ("d(head_dim=16)", "gated_delta_rule", "", "fused_recurrent_gated_delta_rule", INSIDE[:2]),
    ("gd(head_dim=16,k_heads=2,expand_v=2)", "gated_delta_rule", "chunk_gated_delta_rule",
     "fused_recurrent_gated_delta_rule", INSIDE),
    ("kda(head_dim=16)", "kda", "chunk_kda", "fused_recurrent_kda", INSIDE)])
def test_fla_computes_norms_and_gates_inside(text: str, module: str, forward: str, step: str, inside: tuple[str, ...],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as trained and as decoded; keys keep their own heads, and nothing is converted on the way."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "fla")
    spies = [Spy(monkeypatch, f"fla.ops.{module}", name) for name in (forward, step) if name]
    gate = Spy(monkeypatch, "fla.modules.norm.fused_norm_gate", "rms_norm_gated")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs(5))
        with torch.no_grad():
            layer.step(inputs(5)[:, 0], layer.init_state(2, torch.bfloat16))
    for spy in spies:
        (arguments, named), = spy.calls
        assert [name for name in INSIDE if named.get(name)] == list(inside)
        assert {part.dtype for part in arguments[:3]} == {torch.bfloat16}
        if "gd" in text:
            assert (arguments[0].shape[2], arguments[2].shape[2]) == (2, 4)
        if "use_gate_in_kernel" in inside:
            assert named["g"].dtype == named["beta"].dtype == torch.bfloat16, "as projected"
            assert named["A_log"] is layer.A_log
            assert named["dt_bias"] is layer.dt_bias
    if text.startswith(("gd", "kda")):
        assert [named["activation"] for _, named in gate.calls] == ["sigmoid" if "kda" in text else "swish"] * 2


def test_fla_computes_rwkv7_between_its_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as trained and as decoded: log decays stay in float32, weights as they are stored."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("r7(head_dim=16)")
    choose_backend(layer, "fla")
    chunk, step = (Spy(monkeypatch, "fla.ops.rwkv7", name) for name in ("chunk_rwkv7", "fused_mul_recurrent_rwkv7"))
    mix = Spy(monkeypatch, "fla.ops.rwkv7.fused_addcmul", "fused_addcmul_rwkv7")
    others = [Spy(monkeypatch, *place) for place in (
        ("fla.modules.norm.l2norm", "l2norm"), ("fla.modules.norm.layernorm", "group_norm"),
        ("fla.ops.rwkv7.fused_k_update", "fused_k_rwkv7"),
        ("fla.ops.rwkv7.gate_output_correction", "gate_output_correction"))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs(5))
        with torch.no_grad():
            layer.step(inputs(5)[:, 0], layer.init_state(2, torch.bfloat16))
    ((r, w, *rest), named), = chunk.calls
    assert [r.dtype, *(part.dtype for part in rest)] == [torch.bfloat16] * 5
    assert w.dtype == torch.float32
    assert (named["safe_gate"], named["chunk_size"]) == (True, 64)
    assert named["lower_bound"] == pytest.approx(-0.6065306597126334, abs=1e-15), "that of fla's layer"
    assert len(step.calls) == 1
    assert len(mix.calls) == 1, "one kernel of torch for a token"
    assert [len(spy.calls) for spy in others] == [2, 2, 2, 2]
    assert others[1].calls[0][0][1] is layer.norm.weight
    assert others[2].calls[0][0][2] is layer.k_a
    one, _ = layer.bfloat16()(inputs(1)[:1].bfloat16())  # the kernels' plain forms give float32 for a single token
    assert one.dtype == torch.bfloat16


def test_a_library_writes_gradients_over_no_input_of_rwkv7(monkeypatch: pytest.MonkeyPatch) -> None:
    """fused_addcmul_rwkv7 writes one over its first argument, and the state after is a part of the input."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("r7(head_dim=16)")
    choose_backend(layer, "fla")
    x = inputs(5).requires_grad_()
    kept = x.detach().clone()
    y, state = layer(x)
    y.square().sum().backward()
    assert torch.equal(x, kept)
    assert torch.equal(state.conv_BTC, kept[:, -1:])


@pytest.mark.parametrize("text", ["m2(head_dim=16,state=16)", "m2(head_dim=16,state=16,dt_min=0.01)", "m(state=8)"])
def test_mamba_ssm_gets_time_steps_as_projected(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Softplus of dt + dt_bias in float32 inside the kernel, and D with it: rounded to bfloat16 outside, a decay rate
    would be off by up to 0.4 %."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "mamba-ssm")
    scan = Spy(monkeypatch, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    chunks = Spy(monkeypatch, "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    update = Spy(monkeypatch, "mamba_ssm.ops.triton.selective_state_update", "selective_state_update")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs(5))
        with torch.no_grad():
            layer.step(inputs(5)[:, 0], layer.init_state(2, torch.bfloat16))
    (arguments, named), = scan.calls or chunks.calls
    bias, limit = named["delta_bias" if scan.calls else "dt_bias"], 0.01 if "dt_min" in text else 0.0
    assert named["delta_softplus" if scan.calls else "dt_softplus"]
    assert arguments[1].dtype == torch.bfloat16
    assert torch.equal(bias, layer.dt_bias)
    assert torch.equal(named["D"], layer.D)
    assert bias.dtype == named["D"].dtype == torch.float32
    assert named.get("dt_limit", (0.0, torch.inf)) == (limit, torch.inf)
    (arguments, named), = update.calls
    assert named["dt_softplus"] is not bool(limit), "a least time step is none of its arguments"
    assert torch.equal(named["D"].flatten(-1).reshape(len(layer.D), -1)[:, 0], layer.D)
    if not limit:
        assert torch.equal(named["dt_bias"].reshape(len(layer.D), -1)[:, 0], layer.dt_bias)
        assert arguments[2].dtype == torch.bfloat16


def test_mamba_continues_a_prompt_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel starts at zero; what went before is read as tokens in front, exactly, and not token by token by torch.
    """
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("m(state=8)")
    choose_backend(layer, "mamba-ssm")
    scan = Spy(monkeypatch, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    state = RecurrentState(*(1e3 * part for part in state_after(layer, 9)))  # large, beside small inputs
    expected, expected_state = layer.reference(inputs(7), state)
    with torch.no_grad():
        y, after = layer(inputs(7), state)
    (arguments, _), = scan.calls
    assert arguments[0].shape[-1] == 8 + 7
    assert_close(y, expected, 1e-5, "output")
    assert_close(after.matrix_BHKV, expected_state.matrix_BHKV, 1e-6, "state")


def test_where_glue_is_computed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install(monkeypatch)
    model = HybridLM(Architecture.parse("256(vocab=300): a d gd gla kda r7 m2 m h f"))
    kinds = [spec.kind for spec in model.architecture.operators]
    told = surrounding(zip(kinds, model.layers, strict=True), "cuda", torch.bfloat16)
    by_fla = "; norms by fla 0.0-fake"
    assert told == {
        "d": "l2 norms and beta inside fla 0.0-fake" + by_fla, "gla": "the scale inside fla 0.0-fake" + by_fla,
        "gd": "l2 norms, beta and decay inside fla 0.0-fake" + by_fla,
        "kda": "l2 norms, beta and decay inside fla 0.0-fake" + by_fla,
        "r7": "the norm of keys, their update, bonus and gate inside fla 0.0-fake" + by_fla,
        "m2": "time steps and D inside mamba-ssm 0.0-fake" + by_fla,
        "h": "time steps and D inside mamba-ssm 0.0-fake" + by_fla,
        "m": "time steps, D and gate inside mamba-ssm 0.0-fake" + by_fla}
    choose_backend(model, "torch")
    assert surrounding(zip(kinds, model.layers, strict=True), "cuda", torch.bfloat16) == {}



@pytest.mark.parametrize(("packages", "capability", "name"), [
    (("flash_attn", "flash_attn_interface"), (9, 0), "flash-attn-3"),
    (("flash_attn_interface",), (9, 0), "flash-attn-3"),
    (("flash_attn", "flash_attn_interface"), (8, 0), "flash-attn"), (("flash_attn_interface",), (10, 0), "sdpa")])
def test_flash_attn_3_is_taken_on_hopper(packages: tuple[str, ...], capability: tuple[int, int], name: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """By `auto`, and by the choice flash-attn, which takes the one that runs."""
    fake_libraries.install(monkeypatch, *packages, devices=("cpu",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90800)
    layer = make("swa(heads=4,kv_heads=2,head_dim=16,window=5)")
    assert layer.core.kernels("cuda", torch.bfloat16).name.split(" ")[0] == name
    if name == "sdpa":
        assert "needs a Hopper device" in layer.core.passed_over("cuda", torch.bfloat16)["flash-attn-3"]
        return
    choose_backend(layer, "flash-attn")
    assert layer.core.kernels("cuda", torch.bfloat16).name == f"{name} 0.0-fake"
    check_in_bfloat16(layer)
