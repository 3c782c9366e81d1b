"""What runs on a GPU must not wait for the host: a CUDA graph cannot hold it. On the meta device no
value is known."""

import contextlib

import pytest
import torch
from layer_cases import LAYERED

from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import choose_backend
from flashnas.operators.layer import build_layer

HIDDEN = 256


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has none, not even one that is turned off."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def layer_on_meta(kind):
    with torch.device("meta"):
        layer = build_layer(OPERATORS[kind](), HIDDEN)
        choose_backend(layer, "torch")
    return layer


KINDS = [kind for kind in LAYERED if kind != "moe"]  # whose experts the host sorts tokens for


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_looks_at_a_value(kind):
    layer = layer_on_meta(kind)
    with torch.inference_mode():
        y, _ = layer.step(
            torch.empty(2, HIDDEN, device="meta"), layer.init_state(2, torch.float32, "meta")
        )
    assert y.shape == (2, HIDDEN)


@pytest.mark.parametrize("kind", KINDS)
def test_no_prompt_looks_at_a_value(kind):
    with torch.inference_mode():
        y, _ = layer_on_meta(kind)(torch.empty(2, 37, HIDDEN, device="meta"))
    assert y.shape == (2, 37, HIDDEN)
