"""Raw forms: norms, gates and time steps inside the kernels of libraries."""

from __future__ import annotations

import sys
from typing import Any

import fake_libraries
import pytest
import torch
from adapter_cases import CASES, check_steps, inputs, make, run, state_after
from layer_cases import assert_close

from flashnas.architecture import Architecture
from flashnas.network.model import HybridLM
from flashnas.operators.backends.core import Core, choose_backend, fused_around
from flashnas.operators.layer import RecurrentState
from flashnas.operators.mamba2.layer import Mamba2Layer
from flashnas.operators.parts import projection
from flashnas.operators.parts.projection import forget_copies

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
def test_fla_computes_norms_and_gates_inside(text: str, module: str, forward: str, step: str,
                                             inside: tuple[str, ...],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as trained and as decoded; keys keep their own heads, and nothing is converted on the way.
    """
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
        (_, named), = spy.calls
        assert [name for name in INSIDE if named.get(name)] == list(inside)
        assert {named[part].dtype for part in "qkv"} == {torch.bfloat16}
        if "gd" in text:
            assert (named["q"].shape[2], named["v"].shape[2]) == (2, 4)
        if "use_gate_in_kernel" in inside:
            assert named["g"].dtype == named["beta"].dtype == torch.bfloat16, "as projected"
            assert named["A_log"] is layer.A_log
            assert named["dt_bias"] is layer.dt_bias
    if text.startswith(("gd", "kda")):
        assert [named["activation"] for _,
                named in gate.calls] == ["sigmoid" if "kda" in text else "swish"] * 2


def test_fla_computes_rwkv7_between_its_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as trained and as decoded: log decays stay in float32, weights as they are stored."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make("r7(head_dim=16)")
    choose_backend(layer, "fla")
    chunk, step = (Spy(monkeypatch, "fla.ops.rwkv7", name)
                   for name in ("chunk_rwkv7", "fused_mul_recurrent_rwkv7"))
    mix = Spy(monkeypatch, "fla.ops.rwkv7.fused_addcmul", "fused_addcmul_rwkv7")
    others = [Spy(monkeypatch, *place) for place in (
        ("fla.modules.norm.l2norm", "l2norm"), ("fla.modules.norm.layernorm", "group_norm"),
        ("fla.ops.rwkv7.fused_k_update", "fused_k_rwkv7"),
        ("fla.ops.rwkv7.gate_output_correction", "gate_output_correction"))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs(5))
        with torch.no_grad():
            layer.step(inputs(5)[:, 0], layer.init_state(2, torch.bfloat16))
    (_, named), = chunk.calls
    assert {named[part].dtype for part in "rkvab"} == {torch.bfloat16}
    assert named["w"].dtype == torch.float32
    assert (named["safe_gate"], named["chunk_size"]) == (True, 64)
    assert named["lower_bound"] == pytest.approx(-0.6065306597126334, abs=1e-15), "that of fla's layer"
    assert len(step.calls) == 1
    assert len(mix.calls) == 1, "one kernel of torch for a token"
    assert [len(spy.calls) for spy in others] == [2, 2, 2, 2]
    assert others[1].calls[0][0][1] is layer.norm.weight
    assert others[2].calls[0][0][2] is layer.k_a
    # the kernels' plain forms give float32 for a single token
    one, _ = layer.bfloat16()(inputs(1)[:1].bfloat16())
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


@pytest.mark.parametrize("text",
                         ["m2(head_dim=16,state=16)", "m2(head_dim=16,state=16,dt_min=0.01)", "m(state=8)"])
def test_mamba_ssm_gets_time_steps_as_projected(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Softplus of dt + dt_bias in float32 inside the kernel, and D with it: rounded to bfloat16 outside, a
    decay rate would be off by up to 0.4 %."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "mamba-ssm")
    scan = Spy(monkeypatch, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    chunks = Spy(monkeypatch, "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    update = Spy(monkeypatch, "mamba_ssm.ops.triton.selective_state_update", "selective_state_update")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        layer(inputs(5))
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


@pytest.mark.parametrize("text", ["m2(head_dim=16,state=24,groups=2,conv_size=3,bias=true,dt_min=0.01)",
                                  "h(heads=4,kv_heads=2,head_dim=16,state=16)"])
def test_mamba2_is_trained_by_one_node_from_the_start_of_a_sequence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With columns that align in_proj on a GPU, also for fewer tokens than taps; prompts and what goes on from a
    state take the parts, and so does a layer where mamba-ssm lacks causal-conv1d."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    monkeypatch.setattr(projection, "_pads", lambda x: True)
    place = "mamba_ssm.ops.triton.ssd_combined"
    node = Spy(monkeypatch, place, "mamba_split_conv1d_scan_combined")
    layer = make(text)
    choose_backend(layer, "mamba-ssm")
    for tokens in (1, 7):
        expected, got = (run(form, layer, inputs(tokens), None) for form in (layer.reference, layer.forward))
        for what, tensor in expected.items():
            assert_close(got[what], tensor, 2e-4, what)
    assert len(node.calls) == 2
    state = layer(inputs(3))[1]
    layer(inputs(3), state)
    with torch.no_grad():
        layer(inputs(3))
    assert len(node.calls) == 3
    core = next(part.conv.core for part in layer.modules() if isinstance(part, Mamba2Layer))
    own = core.of(inputs(3))
    for kernels, calls in ((own._replace(name="renamed 1.0"), 4), (own._replace(library="causal-conv1d-like"), 4)):
        core._cpu[torch.float32] = kernels  # the kernel of another library is not left out
        layer(inputs(3))
        assert len(node.calls) == calls, kernels.name
    monkeypatch.setattr(sys.modules[place], "causal_conv1d_fwd_function", None)
    choose_backend(layer, "mamba-ssm")
    layer(inputs(3))
    assert len(node.calls) == 4


def test_mamba_continues_a_prompt_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel starts at zero; what went before is read as tokens in front, exactly, and not token by token
    by torch.
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
    told = fused_around(zip(kinds, model.layers, strict=True), "cuda", torch.bfloat16)
    by_fla = "; norms by fla 0.0-fake"
    assert told == {
        "d": "l2 norms and beta inside fla 0.0-fake" + by_fla,
        "gla": "the scale inside fla 0.0-fake" + by_fla,
        "gd": "l2 norms, beta and decay inside fla 0.0-fake" + by_fla,
        "kda": "l2 norms, beta and decay inside fla 0.0-fake" + by_fla,
        "r7": "the norm of keys, their update, bonus and gate inside fla 0.0-fake" + by_fla,
        "m2": "time steps and D inside mamba-ssm 0.0-fake" + by_fla,
        "h": "time steps and D inside mamba-ssm 0.0-fake" + by_fla,
        "m": "time steps, D and gate inside mamba-ssm 0.0-fake" + by_fla}
    choose_backend(model, "torch")
    assert fused_around(zip(kinds, model.layers, strict=True), "cuda", torch.bfloat16) == {}


@pytest.mark.parametrize("text", ["m2(head_dim=16,state=16)", "m(state=8)"])
def test_rates_of_mamba_are_computed_once_while_decoding(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again after a step of an optimizer, and before another prompt."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    layer = make(text)
    choose_backend(layer, "mamba-ssm")
    update = Spy(monkeypatch, "mamba_ssm.ops.triton.selective_state_update", "selective_state_update")
    state = layer.init_state(2, torch.float32)

    def address() -> int:
        layer.step(inputs(1)[:, 0], state)
        rates = update.calls[-1][0][3]
        expected = -layer.A_log.exp()
        torch.testing.assert_close(rates if rates.ndim == 2 else rates[:, 0, 0], expected)
        return rates.data_ptr()

    with torch.no_grad():
        assert address() == address()
        before = address()
        layer.A_log.add_(1)
        assert address() != before
        assert address() == address()
        layer.A_log.data.add_(1)
        forget_copies(layer)
        address()
