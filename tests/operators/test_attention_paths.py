"""Causal attention by torch's kernel equals the plain formula, in all of its forms."""

from types import SimpleNamespace

import pytest
import torch
from cases import cases
from layer_cases import assert_close

from flashnas.operators.attention import layer as attention
from flashnas.operators.attention.cache import KeyValueCache
from flashnas.operators.attention.layer import attend, attend_step


def plain(q, k, v, window):
    repeats, (tokens, keys) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    scores = q @ k.repeat_interleave(repeats, 1).mT * q.shape[-1] ** -0.5
    distance = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    hidden = (distance < 0) | (distance >= (window or keys))
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(repeats, 1)


@pytest.mark.parametrize("window", [0, 1, 20, 64, 100, 500])
@pytest.mark.parametrize(("tokens", "past"), cases("operators", "lengths"))
def test_attention_equals_the_plain_formula(tokens, past, window):
    torch.manual_seed(0)
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
    assert (attend(q, k, v, window) - expected).norm() / expected.norm() < 2 * rounding
    kept = slice(max(0, 300 - window), 300) if window else slice(0, 300)
    one, parts = (
        attend_step(q[:, :, -1], k[:, :, kept], v[:, :, kept]),
        attend(q[:, :, 200:], k, v, window),
    )
    assert (one - expected[:, :, -1]).norm() / expected[:, :, -1].norm() < 2 * rounding
    assert (parts - expected[:, :, 200:]).norm() / expected[:, :, 200:].norm() < 2 * rounding


def test_a_step_leaves_empty_slots_out():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    got = attend_step(q, k, v, torch.tensor([9, 5], dtype=torch.int32))
    for n, kept in enumerate((9, 5)):
        now = slice(n, n + 1)
        assert_close(
            got[now], attend_step(q[now], k[now, :, :kept], v[now, :, :kept]), 1e-6, "one sequence"
        )


@pytest.mark.parametrize("window", [0, 5])
def test_cache_keeps_the_last_tokens_in_order_and_does_not_write_into_its_origin(
    window,
):
    tokens = torch.arange(1.0, 600).reshape(1, 1, -1, 1)
    given = tokens[:, :, :3].clone()
    cache = KeyValueCache(given, -given, 3, window)
    with torch.no_grad():
        for position in range(3, 599):
            cache = cache.appended(tokens[:, :, position], -tokens[:, :, position])
            keys, values = cache.in_order()
            first = max(0, position + 1 - window) if window else 0
            assert torch.equal(keys, tokens[:, :, first : position + 1])
            assert torch.equal(values, -keys)
    assert torch.equal(given, tokens[:, :, :3])
    assert cache.kept == (window or 599)


def test_windows_are_taken_side_by_side_where_a_mask_would_be_large(monkeypatch):
    q, k = torch.empty(1, 4, 5000, 8, device="meta"), torch.empty(1, 2, 5000, 8, device="meta")
    masks, original = [], attention.causal_mask
    monkeypatch.setattr(attention, "causal_mask", lambda *a: masks.append(a[:2]) or original(*a))
    with torch.inference_mode():
        assert attention.attend(q, k, k, 512).shape == q.shape
    assert masks == [(512, 1023)]


@pytest.mark.parametrize(
    ("tokens", "keys", "window"), [(7, 7, 0), (5, 12, 0), (12, 12, 5), (3, 12, 5)]
)
def test_what_a_gpu_takes_equals_what_a_cpu_takes(tokens, keys, window, monkeypatch):
    """No mask in memory for a further part of a prompt, and with a mask as many key heads as query
    heads: torch has no fused kernel for a mask and grouped heads."""
    torch.manual_seed(tokens)
    q, k, v = (
        torch.randn(2, heads, length, 8) for heads, length in ((4, tokens), (2, keys), (2, keys))
    )
    expected = attention.attend(q, k, v, window)
    monkeypatch.setattr(attention, "_on_gpu", lambda x: True)
    masks, asked = [], []
    original_mask, original = (
        attention.causal_mask,
        torch.nn.functional.scaled_dot_product_attention,
    )
    monkeypatch.setattr(
        attention, "causal_mask", lambda *a: masks.append(a[:2]) or original_mask(*a)
    )

    def sdpa(*arguments, **named):
        asked.append((named.get("attn_mask"), named["enable_gqa"]))
        return original(*arguments, **named)

    # torch itself compares with its own function
    monkeypatch.setattr(
        attention,
        "F",
        SimpleNamespace(scaled_dot_product_attention=sdpa, pad=torch.nn.functional.pad),
    )
    torch.testing.assert_close(attention.attend(q, k, v, window), expected, rtol=1e-5, atol=1e-5)
    assert bool(masks) is bool(window)
    assert all(
        not grouped
        for mask, grouped in asked
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool
    )
    assert asked
