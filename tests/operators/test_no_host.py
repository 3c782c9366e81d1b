"""What runs on a GPU must not wait for the host: a CUDA graph cannot hold it. On the meta device no value is
known."""

import contextlib

import pytest
import torch

from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import choose_backend
from flashnas.operators.layer import build_layer
from flashnas.operators.recurrences.dplr import dplr_chunked

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


@pytest.mark.parametrize("kind", OPERATORS)
def test_no_step_looks_at_a_value(kind):
    layer = layer_on_meta(kind)
    with torch.inference_mode():
        y, _ = layer.step(torch.empty(2, HIDDEN, device="meta"), layer.init_state(2, torch.float32, "meta"))
    assert y.shape == (2, HIDDEN)


@pytest.mark.parametrize("kind", [kind for kind in OPERATORS if kind != "moe"])
def test_no_prompt_looks_at_a_value(kind):
    """Of moe only the grouped product of CUDA reads a prompt without the host."""
    with torch.inference_mode():
        y, _ = layer_on_meta(kind)(torch.empty(2, 37, HIDDEN, device="meta"))
    assert y.shape == (2, 37, HIDDEN)


def test_the_halves_of_dplr_equal_its_products_where_both_hold(monkeypatch):
    from flashnas.operators.recurrences import dplr

    torch.manual_seed(0)
    q, k, v, a, b = (torch.randn(2, 50, 3, 16, dtype=torch.float64) / 4 for _ in range(5))
    g = -torch.rand(2, 50, 3, 16, dtype=torch.float64)
    state = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    plain = dplr_chunked(q, k, v, a, b, g, state)
    by_halves = []
    original = dplr._scores_by_halves
    monkeypatch.setattr(dplr, "_scores_by_halves", lambda *parts: by_halves.append(1) or original(*parts))
    monkeypatch.setattr(dplr, "MAX_DECAY", 0.0)
    monkeypatch.setattr(torch.Tensor, "clamp", lambda x, **_: x)
    halves = dplr_chunked(q, k, v, a, b, g, state)
    assert by_halves
    for got, expected in zip(halves, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
