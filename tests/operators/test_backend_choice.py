"""Backends: which library is taken, and what is said of those that are not."""

import dataclasses
import sys
import types

import fake_libraries
import pytest
import torch
from cases import cases
from one_line import one_line

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import ConfigError, OperatorError
from flashnas.network.model import HybridLM
from flashnas.operators.backends import fla, library
from flashnas.operators.backends.core import LIBRARIES, Core, choose_backend
from flashnas.profiling.torch_target import Torch
from flashnas.testing.forms import make_layer

ALL = "a d gd gla m2 kda r7 m f"
AUTO = cases("operators", "auto")


def make(text):
    return make_layer(parse_operators(text)[0], 64, torch.float32)


def on_cuda(model, dtype):
    from flashnas.operators.backends.core import running

    kinds = (spec.kind for spec in model.architecture.operators)
    names = running(zip(kinds, model.layers, strict=True), "cuda", dtype)
    return {kind: name.replace(" 0.0-fake", "").split(" 2.")[0] for kind, name in names.items()}


@pytest.mark.parametrize(("packages", "dtype", "expected"), AUTO)
def test_auto_takes_the_best_that_is_at_hand(packages, dtype, expected, monkeypatch):
    fake_libraries.install(monkeypatch, *packages)
    model = HybridLM(Architecture.parse(f"256(vocab=300): {ALL}"))
    assert on_cuda(model, getattr(torch, dtype)) == {**expected, "f": "torch"}
    on_cpu = model.backends()
    assert on_cpu.pop("a") == "sdpa"
    assert set(on_cpu.values()) == {"torch"}, "on a CPU nothing changes"


@pytest.mark.parametrize(("backend", "expected"), cases("operators", "chosen_libraries"))
def test_a_chosen_library_computes_what_it_covers(backend, expected, monkeypatch):
    fake_libraries.install(monkeypatch)
    model = HybridLM(Architecture.parse("256(vocab=300): a d m2"), backend)
    assert on_cuda(model, torch.bfloat16) == expected


@pytest.mark.parametrize(
    ("backend", "text", "packages", "line"),
    cases("operators", "missing_libraries"),
)
def test_what_is_not_there_is_one_line(backend, text, packages, line, monkeypatch):
    fake_libraries.install(monkeypatch, *packages)
    assert (
        one_line(OperatorError, HybridLM, Architecture.parse(f"256(vocab=300): {text}"), backend)
        == line
    )


def test_an_installed_library_that_is_broken_or_too_old_is_a_reason(tmp_path, monkeypatch):
    """A library built for another torch raises when it is imported; `auto` takes the next one."""
    for package, code in (
        ("mamba_ssm", "raise ImportError('selective_scan_cuda.so: undefined symbol')"),
        ("fla", "raise ImportError('a name that others no longer have')"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code + "\n")
    for name, release in (("mamba_ssm", "2.3.1"), ("flash_linear_attention", "0.5.2")):
        info = tmp_path / f"{name}-{release}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {release}\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] in ("mamba_ssm", "fla")]:
        monkeypatch.delitem(sys.modules, name)
    library._failure.cache_clear()
    try:
        assert [LIBRARIES[name].missing() for name in ("mamba-ssm", "fla", "flash-attn")] == [
            "the package mamba-ssm 2.3.1 cannot be imported: ImportError: selective_scan_cuda.so:"
            " undefined symbol",
            "flash-linear-attention 0.5.2 is too old; 0.6 or later is needed",
            "the package flash-attn is not installed",
        ]
        assert make("m2").core.kernels("cuda", torch.bfloat16).name == "torch"
        assert set(make("m2").core.rejected("cuda", torch.bfloat16)) == {"mamba-ssm", "fla"}
    finally:
        library._failure.cache_clear()
        for name in ("mamba_ssm", "fla"):
            sys.modules.pop(name, None)


def test_a_package_without_the_functions_that_are_called_is_a_reason(tmp_path, monkeypatch):
    """flash-attn 4 alone leaves a namespace package flash_attn, which can be imported and has
    nothing in it; fla may lack one function of a core."""
    fake_libraries.install(monkeypatch, "fla")
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").write_text("def flash_attn_func(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn")
    monkeypatch.delattr(sys.modules["fla.ops.rwkv7"], "chunk_rwkv7")
    reason = "the package flash_attn here is not that of fake-flash-attn"
    try:
        assert LIBRARIES["flash-attn"].missing() == reason
        model = HybridLM(Architecture.parse("256(vocab=300): a d r7"))
        assert on_cuda(model, torch.bfloat16) == {"a": "sdpa", "d": "fla", "r7": "torch"}
        assert (
            model.layers[2]
            .mixer.core.rejected("cuda", torch.bfloat16)["fla"]
            .startswith(
                "fake-fla 0.0-fake cannot be used: AttributeError: module 'fla.ops.rwkv7' has no"
                " attribute 'chunk_rwkv7'"
            )
        )
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert "flash" not in Torch(device="cuda").stack
        assert one_line(OperatorError, choose_backend, model, "flash-attn") == (
            f"backend flash-attn cannot be used: {reason}; allowed here: auto, torch"
        )
    finally:
        sys.modules.pop("flash_attn", None)


@pytest.mark.parametrize(
    ("triton", "refused"),
    [("3.3.1", False), ("3.4.0", True), ("3.6.0+git9844da95", True), ("3.7.1", False)],
)
def test_on_hopper_with_some_releases_of_triton_fla_computes_gated_rules_without_gradients_alone(
    triton, refused, monkeypatch
):
    fake_libraries.install(monkeypatch, "fla")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    # nightlies of torch bring the distribution pytorch-triton, so that the module alone has a
    # version
    module = types.ModuleType("triton")
    module.__version__ = triton  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", module)
    fla._hopper.cache_clear()
    try:
        reason = "Triton 3.7.1 or later is needed"
        for text in ("gd(head_dim=16)", "m2(head_dim=16,state=16)"):
            core = make(text).core
            used, trained = (core.kernels("cuda", torch.bfloat16, wanted) for wanted in (0, 1))
            assert used.name == "fla 0.0-fake"
            assert trained.name == ("torch" if refused else used.name)
            assert "fla" not in core.rejected("cuda", torch.bfloat16)
            assert (reason in str(core.rejected("cuda", torch.bfloat16, gradients=True))) is refused
        ungated = make("gla(head_dim=32)").core.kernels("cuda", torch.bfloat16, gradients=True)
        assert ungated.name == "fla 0.0-fake", "it has no guard"
    finally:
        fla._hopper.cache_clear()


def test_a_chosen_library_that_cannot_run_here_says_why(monkeypatch):
    fake_libraries.install(monkeypatch)
    two = HybridLM(Architecture.parse("256(vocab=300): d(head_dim=8) d(head_dim=32)"))
    assert on_cuda(two, torch.bfloat16)["d"] == "torch + fla"
    model = HybridLM(Architecture.parse("64(vocab=300): d(head_dim=8)"), "fla")
    assert one_line(OperatorError, model, torch.zeros(1, 3, dtype=torch.long)) == (
        "operator delta_net: backend fla cannot run it: it runs on cuda only; the tensors are"
        " on cpu; allowed here: auto, torch"
    )
    with pytest.raises(
        OperatorError,
        match=r"backend fla cannot run it: it takes a key_dim of 16 to 256; got 8;"
        r" allowed here: auto, torch$",
    ):
        on_cuda(model, torch.bfloat16)
    with pytest.raises(OperatorError, match=r"it has no float64"):
        on_cuda(model, torch.float64)


@pytest.mark.parametrize("named", ["auto", "fla"])
def test_the_choice_follows_whether_gradients_are_on(named, monkeypatch):
    fake_libraries.install(monkeypatch, "fla", devices=("cpu",))
    broken = dataclasses.replace(LIBRARIES["fla"], gradients=lambda core, dtype: "it is wrong here")
    monkeypatch.setitem(LIBRARIES, "fla", broken)
    core, x = make("gd(head_dim=16)").core, torch.zeros(1, dtype=torch.bfloat16)
    core.choose(named)
    for _ in range(2):
        with torch.no_grad():
            assert core.of(x).name == "fla 0.0-fake"
        if named == "auto":
            assert core.of(x).name == "torch"
        else:
            with pytest.raises(OperatorError, match="backend fla cannot run it: it is wrong here"):
                core.of(x)


def test_steps_with_gradients_are_torch(monkeypatch):
    """The libraries' steps have no backward pass; the stand-ins refuse a call with gradients on."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("m2(head_dim=16,state=16)")
    choose_backend(layer, "mamba-ssm")
    x = torch.randn(2, 64, requires_grad=True)
    y, _ = layer.step(x, layer.init_state(2, torch.float32))
    y.sum().backward()
    assert x.grad is not None


# -- records ---------------------------------------------------------------------------------------


def test_a_job_names_the_libraries_in_its_stack(monkeypatch):
    fake_libraries.install(monkeypatch, "fla", "flash_attn")
    plain = f"torch-{torch.__version__}-1t"
    assert [Torch(backend=name).stack for name in ("auto", "torch")] == [plain, f"{plain}-by-torch"]
    assert "backend" not in Torch().describe_stack()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto, only, none = (Torch(device="cuda", backend=name) for name in ("auto", "fla", "torch"))
    assert auto.stack.endswith("-fla-0.0-fake-flash-attn-0.0-fake")
    assert only.stack.endswith("-fla-0.0-fake-by-fla")
    assert none.stack.endswith("-by-torch")
    assert only.describe_stack()["libraries"] == {"fla": "0.0-fake"}
    assert only.describe_stack()["backend"] == "fla"
    with pytest.raises(ConfigError, match=r"^torch\.backend must be one of auto, torch, fla"):
        Torch(backend="triton")


def test_a_core_that_no_library_has_is_torch():
    """As that of an operator of another package."""
    core = Core("fft_conv", "own", (torch.add, torch.mul))
    assert core.of(torch.zeros(1)).name == "torch"
    assert core.rejected("cuda", torch.bfloat16) == {}


def test_float32_is_not_rounded_unless_the_library_is_named(
    monkeypatch,
):
    fake_libraries.install(monkeypatch)
    core = make("gla(head_dim=32)").core
    assert core.kernels("cuda", torch.float32).name == "torch"
    assert core.rejected("cuda", torch.float32) == {
        "fla": "it would round float32 to TensorFloat-32"
    }
    assert core.rejected("cuda", torch.bfloat16) == core.rejected("cpu", torch.bfloat16) == {}
    core.choose("fla")
    assert core.kernels("cuda", torch.float32).name == "fla 0.0-fake"
