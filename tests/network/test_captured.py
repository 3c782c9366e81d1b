"""One captured step, replayed for every token, continues a prompt as single steps do."""

import gc
import sys
from unittest.mock import Mock

import fake_libraries
import pytest
import recorded_graph
import torch

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError
from flashnas.network.cache import CapturedStep
from flashnas.network.model import HybridLM
from flashnas.operators.parts import Rotary, rotate_one

ATTENTION = (
    "a(head_dim=16) swa(head_dim=16,window=5)"
    " a(head_dim=16,qk_norm=true,out_gate=true,rope_share=0.5)"
    " a(head_dim=16,rope_share=0) swa(head_dim=16,window=50)"
)
FLA = "d(head_dim=16) gd(head_dim=16) gla(head_dim=32) kda(head_dim=16) r7(head_dim=16)"
MAMBA = "m2(head_dim=16,state=16) m(state=8)"
# library -> stand-ins, operators, dtype, tolerance of logits as a share of their size
CASES = {
    "torch": ((), f"{ATTENTION} {FLA} {MAMBA} f", torch.float64, 1e-9),
    "flash-attn": (("flash_attn",), ATTENTION, torch.bfloat16, 0.02),
    "fla": (("fla",), FLA, torch.float32, 1e-4),
    "mamba-ssm": (("mamba_ssm", "selective_scan_cuda"), MAMBA, torch.float32, 1e-4),
}


def make(case):
    torch.manual_seed(0)
    _, operators, dtype, _ = CASES[case]
    model = HybridLM(Architecture.parse(f"64(vocab=300,meta=3): {operators}"), case)
    return model.to(dtype).eval()


@pytest.mark.parametrize("case", CASES)
def test_one_captured_step_serves_every_position(case, monkeypatch):
    """From two prompts, across the end of a window; logits as of single steps by the same
    kernels.
    """
    packages, _, _, tolerance = CASES[case]
    if packages:
        fake_libraries.install(monkeypatch, *packages, devices=("cpu",))
    model, graphs = make(case), recorded_graph.install(monkeypatch)
    tokens = torch.arange(2 * 20).view(2, 20) * 7 % 300
    for prompt in (1, 6):
        _, cache = model.prefill(tokens[:, :prompt])
        step = CapturedStep(
            model.step_in_place,
            model.prefill(tokens[:, :prompt])[1],
            prompt + 3,
            prompt + 12,
            tokens[:, 0],
        )
        for t in range(prompt, prompt + 9):
            expected, cache = model.decode_step(tokens[:, t], cache)
            assert (step(tokens[:, t]) - expected).norm() < tolerance * expected.norm(), t
    assert len(graphs) == 2


def test_generation_from_a_graph_equals_that_by_steps(monkeypatch):
    model, tokens = make("torch"), torch.arange(10).view(2, 5)
    with pytest.raises(
        DeviceError, match=r"^generate: graph=True needs a .* CUDA device; this one is on cpu$"
    ):
        model.generate(tokens, 3, graph=True)
    graphs = recorded_graph.install(monkeypatch)
    for count in (1, 5):
        torch.manual_seed(1)
        expected = model.generate(tokens, count, greedy=False)
        torch.manual_seed(1)
        assert torch.equal(model.generate(tokens, count, greedy=False, graph=True), expected)
    assert len(graphs) == 1, "a single token needs no step"


def test_a_captured_step_keeps_alive_what_it_reads(monkeypatch):
    """Weights and tables, also where nobody else has the network and many other tables were made:
    a graph replays addresses."""
    graphs = recorded_graph.install(monkeypatch)
    model, tokens = make("torch"), torch.arange(10).view(2, 5)
    _, cache = model.prefill(tokens)
    step = CapturedStep(model.step_in_place, cache, 8, 20, tokens[:, 0])
    read = graphs[0].forget()
    del model, cache
    for theta in range(2, 302):
        rotate_one(torch.zeros(1, 1, 2), 0, 1, Rotary(2, float(theta)))
    gc.collect()
    assert len(read) > 100
    assert all(found() is not None for found in read)
    del step


@pytest.mark.parametrize(("backend", "name"), [("torch", "sdpa"), ("flash-attn", "flash-attn")])
def test_records_name_what_a_captured_step_calls(monkeypatch, backend, name):
    fake_libraries.install(monkeypatch, "flash_attn", devices=("cpu",))
    functions = {}
    for called, place, attribute in (
        ("sdpa", torch.nn.functional, "scaled_dot_product_attention"),
        ("flash-attn", sys.modules["flash_attn"], "flash_attn_with_kvcache"),
    ):
        functions[called] = Mock(wraps=getattr(place, attribute))
        monkeypatch.setattr(place, attribute, functions[called])
    model = HybridLM(Architecture.parse("64(vocab=300): a(head_dim=16)"), backend)
    model, tokens = model.to(torch.bfloat16).eval(), torch.arange(10).view(2, 5)
    recorded_graph.install(monkeypatch)
    _, cache = model.prefill(tokens)
    for function in functions.values():
        function.reset_mock()
    CapturedStep(model.step_in_place, cache, 5, 9, tokens[:, 0])
    assert model.backends()["a"].partition(" ")[0] == name
    assert [called for called, function in functions.items() if function.called] == [name]
