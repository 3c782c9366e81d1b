"""Causal attention by torch's kernel equals the plain formula, in all of its forms."""

import pytest
import torch
from cases import cases
from layer_cases import assert_close
from offenders import every

from flashnas.operators.attention import layer as attention
from flashnas.operators.attention.layer import attend, attend_step
from flashnas.operators.attention.spec import SlidingWindowAttention
from flashnas.operators.layer import build_layer


def plain(q, k, v, window):
    repeats, (tokens, keys) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    scores = q @ k.repeat_interleave(repeats, 1).mT * q.shape[-1] ** -0.5
    distance = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    hidden = (distance < 0) | (distance >= (window or keys))
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(repeats, 1)


@pytest.mark.parametrize("gpu", [False, True])
@every(length=cases("operators", "lengths"), window=(0, 1, 20, 64, 100, 500))
def test_attention_equals_the_plain_formula(length, window, gpu, monkeypatch):
    """Also on the paths of a GPU, whose kernels take no mask with grouped heads."""
    monkeypatch.setattr(attention, "_on_gpu", lambda x: gpu)
    torch.manual_seed(0)
    tokens, past = length
    q, k, v = (
        torch.randn(2, heads, length, 40, dtype=torch.float64, requires_grad=True)
        for heads, length in ((6, tokens), (2, tokens + past), (2, tokens + past))
    )
    got, expected = attend(q, k, v, window), plain(q, k, v, window)
    assert_close(got, expected, 1e-10, "output")
    weight = torch.randn(expected.shape, dtype=torch.float64)
    for gradient, exact in zip(
        torch.autograd.grad((got * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert_close(gradient, exact, 1e-10, "gradient")


@pytest.mark.parametrize("window", [0, 5, 40, 64])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_scores_stay_in_float32_in_bfloat16(kv_heads, window):
    """With scores rounded to bfloat16 the error of all forms is 1.75 times as large, and 11 times
    where queries and keys are large."""
    torch.manual_seed(0)
    q, k, v = (4 * torch.randn(1, heads, 300, 64).bfloat16() for heads in (4, kv_heads, kv_heads))
    expected = plain(q.double(), k.double(), v.double(), window)
    rounding = (expected.bfloat16() - expected).norm() / expected.norm()
    seen = slice(-window, None) if window else slice(None)
    for got, right in (
        (attend(q, k, v, window), expected),
        (attend(q[:, :, 200:], k, v, window), expected[:, :, 200:]),
        (attend_step(q[:, :, -1], k[:, :, seen], v[:, :, seen]), expected[:, :, -1]),
    ):
        assert (got - right).norm() < 2 * rounding * right.norm()


@torch.no_grad()
def test_a_step_does_not_write_into_the_activations_of_a_prompt():
    layer = build_layer(SlidingWindowAttention(head_dim=4, window=3), 8)
    for tokens in (2, 3, 5, 6):
        given, new = torch.ones(1, 2, tokens, 4), torch.zeros(1, 2, 4)
        layer._cache(given, given, tokens).appended(new, new)
        assert given.all()


def test_windows_are_taken_block_by_block_where_a_mask_would_be_large(monkeypatch):
    q, k = torch.empty(1, 4, 5000, 8, device="meta"), torch.empty(1, 2, 5000, 8, device="meta")
    masks, original = [], attention.causal_mask
    monkeypatch.setattr(attention, "causal_mask", lambda *a: masks.append(a[:2]) or original(*a))
    with torch.inference_mode():
        assert attention.attend(q, k, k, 512).shape == q.shape
    assert masks == [(512, 1023)] * 8 + [(392, 903)]
