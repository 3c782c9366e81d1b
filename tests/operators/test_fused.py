"""Hand-written gradients against autograd of the plain formulas, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.operators.parts.fused import convolution_silu, gated_rms_norm, rms_norm, rms_norm_of_gated, swiglu
from flashnas.operators.parts.norms import l2_normalise, normalised_queries_and_keys

CASES = ("rms_norm", "rms_norm strided", "rms_norm constant", "rms_norm gated", "rms_norm of gated",
         "rms_norm of gated groups", "swiglu", "convolution", "convolution bias", "l2")


def case(name: str):
    """(fused, plain, leaves)."""
    torch.manual_seed(0)
    if name == "rms_norm gated":
        x, gate = torch.randn(2, 3, 5, 8, dtype=torch.float64)
        weight = torch.randn(8, dtype=torch.float64)
        return (lambda x, gate, w: gated_rms_norm(x, gate, w, 1e-3),
                lambda x, gate, w: rms_norm(x, w, 1e-3) * F.silu(gate), [x.clone(), gate.clone(), weight])
    if name.startswith("rms_norm of gated"):
        shape = (3, 4, 2, 8) if name.endswith("groups") else (3, 4, 8)
        x, gate = torch.randn(2, *shape, dtype=torch.float64)
        weight = torch.randn(*shape[2:], dtype=torch.float64)
        return (lambda x, gate, w: rms_norm_of_gated(x, gate, w, 1e-3),
                lambda x, gate, w: rms_norm(x * F.silu(gate), w, 1e-3), [x.clone(), gate.clone(), weight])
    if name.startswith("rms_norm"):
        x, weight = torch.randn(3, 5, 24, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
        view = (lambda x: x[..., 8:16]) if name == "rms_norm strided" else (lambda x: x.unflatten(-1, (3, 8)))
        leaves = [x] if name == "rms_norm constant" else [x, weight]
        return (lambda x, w=weight: rms_norm(view(x), w, 1e-3),
                lambda x, w=weight: view(x) * torch.rsqrt(view(x).square().mean(-1, keepdim=True) + 1e-3) * w,
                leaves)
    if name == "swiglu":
        return swiglu, lambda x: F.silu(x[..., :7]) * x[..., 7:], [torch.randn(3, 5, 14, dtype=torch.float64)]
    if name == "l2":
        return (lambda x: torch.cat(normalised_queries_and_keys(x, 0.3), -2),
                lambda x: torch.cat([l2_normalise(x[..., :2, :]) * 0.3, l2_normalise(x[..., 2:, :])], -2),
                [1e-3 * torch.randn(3, 5, 4, 8, dtype=torch.float64)])
    history, weight = torch.randn(2, 9, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    bias = [torch.randn(6, dtype=torch.float64)] if name.endswith("bias") else []

    def plain(history: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.silu(F.conv1d(history.mT, weight.unsqueeze(1), bias, groups=6)).mT

    return lambda h, w, b=None: convolution_silu(h, w, b), plain, [history, weight, *bias]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_plain_formula(name: str) -> None:
    fused, plain, values = case(name)
    leaves = [value.requires_grad_() for value in values]
    got, expected = fused(*leaves), plain(*leaves)
    assert_close(got, expected, 1e-12, "value")
    weight = torch.randn(expected.shape, dtype=torch.float64)
    got_gradients = torch.autograd.grad((got * weight).sum(), leaves)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, exact in zip(got_gradients, expected_gradients, strict=True):
        assert_close(gradient, exact, 1e-12, "gradient")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 500])
def test_rms_norm_is_the_same_outside_of_autograd(tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(tokens, 64).to(dtype), torch.rand(64).to(dtype)
    expected = rms_norm(x.double(), weight.double().requires_grad_(), 1e-3)
    with torch.no_grad():
        got = rms_norm(x, weight, 1e-3)
    assert got.dtype == dtype
    assert_close(got, expected, {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype],
                 "value")
