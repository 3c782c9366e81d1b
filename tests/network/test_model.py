"""The language model: exact sizes, loss, meta tokens, prefill and decode against the parallel
forward.
"""

import fake_libraries
import pytest
import torch
import torch.nn.functional as F
from offenders import every

from flashnas.architecture import Architecture
from flashnas.architecture.source import presets
from flashnas.base.errors import CandidateMemoryError
from flashnas.network import loss as loss_module
from flashnas.network import model as model_module
from flashnas.network.model import HybridLM
from flashnas.operators.backends.core import choose_backend

torch.set_num_threads(1)

HYBRID = (
    "64(vocab=101,meta=3): d(head_dim=16) f m2(head_dim=16,state=16,groups=2) a(head_dim=16) f"
    " gd(head_dim=16)"
    " gla(head_dim=16) swa(head_dim=16,window=8) f"
)
ARCHITECTURES = [
    HYBRID,
    HYBRID.replace("meta=3", "tied=false"),
    "64(vocab=50): a(heads=3,kv_heads=3,head_dim=10,qk_norm=true,qkv_bias=true) f(intermediate=17)",
    "64(vocab=50): swa(head_dim=32,window=4) m2(expand=1,head_dim=8,state=5,conv_size=3)",
    "64(vocab=50): gd(k_heads=2,expand_v=3,head_dim=8,conv_size=2) gla(head_dim=8,gate_rank=2)",
    "64(vocab=50,meta=5): d(head_dim=64,conv_size=2)",
]


def make_model(text, dtype=torch.float64):
    torch.manual_seed(0)
    return HybridLM(Architecture.parse(text)).to(dtype)


def make_tokens(model, *shape):
    torch.manual_seed(1)
    return torch.randint(model.architecture.vocab, shape)


def test_parameters_are_exact():
    for architecture in (*map(Architecture.parse, ARCHITECTURES), *presets().values()):
        with torch.device("meta"):
            model = HybridLM(architecture)
        assert sum(p.numel() for p in model.parameters()) == architecture.params


@every(text=ARCHITECTURES)
def test_prefill_and_steps_equal_the_forward(text):
    """Also from an empty prompt, which starts with the meta tokens alone."""
    model = make_model(text)
    tokens = make_tokens(model, 2, 40)
    with torch.no_grad():
        expected = model(tokens)
    assert expected.shape == (2, 40, model.architecture.vocab)
    logits, cache = model.prefill(tokens[:, :11])
    torch.testing.assert_close(logits, expected[:, 10], rtol=1e-9, atol=1e-9)
    logits, cache = model.prefill(tokens[:, 11:20], cache)
    torch.testing.assert_close(logits, expected[:, 19], rtol=1e-9, atol=1e-9)
    for start, given in ((20, cache), (0, model.start_cache(2))):
        for t in range(start, start + 12):
            logits, given = model.decode_step(tokens[:, t], given)
            torch.testing.assert_close(logits, expected[:, t], rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="start_cache"):
        model.prefill(tokens[:, :0])


@pytest.mark.parametrize("kept", [0.3, 1.0])  # a target of -100 does not count
@pytest.mark.parametrize("tied", [True, False])
def test_loss_equals_cross_entropy_of_the_logits(tied, kept, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 1)
    monkeypatch.setattr(loss_module, "ROWS_PER_CHUNK", 5)  # the last part has 3
    model = make_model(HYBRID if tied else HYBRID.replace("meta=3", "tied=false"))
    tokens, targets = make_tokens(model, 2, 9), make_tokens(model, 2, 9).flip(1)
    targets = targets.masked_fill(torch.rand(2, 9) > kept, -100)
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    parameters = list(model.parameters())
    expected_gradients = torch.autograd.grad(expected, parameters)
    loss = model.loss(tokens, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for got, gradient in zip(
        torch.autograd.grad(2 * loss, parameters), expected_gradients, strict=True
    ):
        torch.testing.assert_close(got, 2 * gradient, rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(tokens, targets), expected, rtol=1e-10, atol=1e-10)


def test_tokens_are_drawn_where_that_is_asked():
    """Greedy ones are those of transformers: tests/exporting/test_families.py."""
    model = make_model(HYBRID)
    tokens = make_tokens(model, 2, 6)
    assert model.generate(tokens, 0).shape == (2, 0)
    torch.manual_seed(0)
    assert len(model.generate(tokens, 30, greedy=False).unique()) > 10


def test_tables_made_in_inference_mode_serve_training():
    architecture = Architecture.parse(
        "48(vocab=50): a(head_dim=16) swa(head_dim=16,window=5) d(head_dim=16)"
        " gd(head_dim=16) m2(head_dim=16,state=16) gla(head_dim=16)"
    )
    model, tokens = HybridLM(architecture), torch.randint(50, (2, 77))
    with torch.inference_mode():
        model(tokens)
    model.loss(tokens, tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# -- the residual stream of a GPU ------------------------------------------------------------------

EVERY = (
    "64(vocab=101,meta=3): a(head_dim=16) d(head_dim=16) gd(head_dim=16,k_heads=2,expand_v=2)"
    " gla(head_dim=32)"
    " m2(head_dim=16,state=16) kda(head_dim=16) r7(head_dim=16) m(state=8)"
    " f swa(head_dim=16,window=8) moe(experts=4)"
)


@pytest.mark.parametrize("backend", ["torch", "fla", "mamba-ssm"])
def test_the_stream_of_a_gpu_has_the_dtype_of_autocast(backend, monkeypatch):
    """Weights and their gradients stay in float32; loss and gradients are near those in float64."""
    fake_libraries.install(monkeypatch, devices=("cpu",))
    narrow = HybridLM(Architecture.parse(EVERY), backend)
    narrow.load_state_dict(make_model(EVERY, torch.float32).state_dict())
    exact = make_model(EVERY)
    exact.load_state_dict(narrow.state_dict())
    choose_backend(exact, "torch")
    monkeypatch.setattr(model_module, "_streams_low", lambda x: torch.is_autocast_enabled("cpu"))
    seen = set()
    for block in narrow.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.add(arguments[0].dtype))
    tokens = make_tokens(narrow, 2, 20)
    found = []
    for model in (narrow, exact):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model is narrow):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert {gradient.dtype for gradient in gradients} == {model.embedding.weight.dtype}
        found.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    assert seen == {torch.bfloat16}
    (loss, got), (exact_loss, right) = found
    assert abs(loss - exact_loss) < 0.01
    assert (got - right).norm() < 0.2 * right.norm(), "0.11 where it is right"


def test_a_network_that_no_memory_holds_is_one_line():
    with pytest.raises(
        CandidateMemoryError, match=r"^out of memory: the network has 1,130,306,557,968,512 param"
    ):
        HybridLM(Architecture.parse("1048576(vocab=1073741824): d"))
