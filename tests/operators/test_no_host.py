"""What runs on a GPU must not wait for the host: a CUDA graph cannot hold it. On the meta device no
value is known."""

import contextlib

import pytest
import torch
from layer_cases import LAYERED

from flashnas.architecture import Architecture
from flashnas.network.model import HybridLM
from flashnas.operators.attention.cache import Position
from flashnas.profiling.torch_calls import filled_states

HIDDEN = 256


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has none, not even one that is turned off."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


KINDS = [kind for kind in LAYERED if kind != "moe"]  # whose experts the host sorts tokens for


def test_no_model_looks_at_a_value_or_takes_a_tensor_of_another_device():
    with torch.device("meta"):
        model = HybridLM(Architecture.parse(f"256(vocab=512,meta=3): {' '.join(KINDS)} f"), "torch")
    tokens_BT = torch.zeros(2, 300, dtype=torch.long, device="meta")
    model.loss(tokens_BT, tokens_BT).backward()
    with torch.inference_mode():
        logits_BV, cache = model.prefill(tokens_BT[:, :30])
        logits_BV, cache = model.decode_step(tokens_BT[:, 0], cache)
        logits_BV, cache = model.prefill(tokens_BT, cache)
        fixed = filled_states(model, 2, 400, Position(334, 400, 2, "meta"))
        found = [logits_BV, model.decode_step(tokens_BT[:, 0], fixed)[0]]
    found += [parameter.grad for parameter in model.parameters()]
    assert {tensor.device.type for tensor in found} == {"meta"}
