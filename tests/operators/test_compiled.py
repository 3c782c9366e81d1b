"""Compiled kernels that surround the recurrences: convolutions, norms, the loss, against torch's formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from layer_cases import assert_close
from torch import Tensor

from flashnas.network.loss import linear_cross_entropy
from flashnas.operators.compiled import convolution, cross_entropy, norms
from flashnas.operators.parts import fused
from flashnas.operators.parts.convolution import short_convolution, short_convolution_step

Rule = Callable[..., tuple[Tensor, Tensor]]
def results(rule: Callable[..., Tensor | tuple[Tensor, Tensor]], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of a weighted sum of them."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
    outputs = rule(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    total = sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in outputs)
    return [*(part.detach() for part in outputs), *torch.autograd.grad(total, leaves)]


def check(compiled: Callable[..., Tensor], plain: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    """Values and gradients; to a rounding of bfloat16 where a tensor is in it."""
    expected = results(plain, [tensor.double() for tensor in arguments])
    same, rounded = results(plain, arguments), any(tensor.dtype == torch.bfloat16 for tensor in arguments)
    for n, (got, exact, ours) in enumerate(zip(results(compiled, arguments), expected, same, strict=True)):
        assert got.dtype == ours.dtype
        assert_close(got, exact, 1e-2 if rounded else 1e-6, f"result {n}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "channels", "taps"),
                         [(1, 16, 4), (2, 21, 4), (50, 48, 4), (20, 16, 2), (9, 32, 1)])
def test_convolution(tokens: int, channels: int, taps: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, state = torch.randn(2, tokens, channels).to(dtype), torch.randn(2, taps - 1, channels).to(dtype)
    weight, bias = torch.randn(channels, taps), torch.randn(channels)

    def with_state(rule: Rule, *arguments: Tensor) -> Tensor:
        y, after = rule(*arguments)
        return torch.cat([y, after], 1)

    check(lambda *parts: with_state(convolution.short_convolution, *parts),
          lambda *parts: with_state(short_convolution, *parts), [x, state, weight, bias])
    y, _ = convolution.short_convolution(x, state, weight, None)
    assert_close(y, short_convolution(x.double(), state.double(), weight.double(), None)[0],
                 5e-3 if dtype == torch.bfloat16 else 1e-6, "without a bias")


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "channels", "taps"),
                         [(1, 32, 4), (3, 48, 4), (3, 21, 4), (2, 16, 2), (2, 16, 1)])
def test_convolution_steps_are_the_sequence(batch: int, channels: int, taps: int, dtype: torch.dtype) -> None:
    """The first state is a part of a projection, as after a prompt; later ones are written in place."""
    torch.manual_seed(0)
    x, first = (torch.randn(batch, n, channels + 8).to(dtype)[..., 3:3 + channels] for n in (7, taps - 1))
    weight = torch.randn(channels, taps).to(dtype)
    for bias in (torch.randn(channels).to(dtype), None):
        y, final = short_convolution(*(part if part is None else part.double()
                                       for part in (x, first, weight, bias)))
        state, outputs = first, []
        for t in range(x.shape[1]):
            place = state.data_ptr()
            out, state = convolution.short_convolution_step(x[:, t], state, weight, bias)
            assert t == 0 or channels == 21 or state.data_ptr() == place
            outputs.append(out)
        assert outputs[0].dtype == state.dtype == dtype
        assert_close(torch.stack(outputs, 1), y, 1e-2 if dtype == torch.bfloat16 else 1e-6, "outputs")
        assert torch.equal(state.double(), final)


@pytest.mark.parametrize("gate", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 48), (2, 5, 48), (2, 5, 3, 48)])
def test_norms(shape: tuple[int, ...], dtype: torch.dtype, gate: torch.dtype | None) -> None:
    torch.manual_seed(0)
    x, gates = torch.randn(shape).to(dtype), [] if gate is None else [torch.randn(shape).to(gate)]
    for first in (False, True):
        for weight in [torch.randn(48), torch.randn(shape[-2:])][:1 + (len(shape) == 4 and first)]:
            check(*(lambda x, w, g=None, rule=rule, first=first: rule(x, w, 1e-3, g, first)
                    for rule in (norms.normalise, fused.normalise)), [x, weight, *gates])


def test_a_norm_of_a_part_of_a_projection_with_one_weight_a_head() -> None:
    x, weight = torch.randn(2, 5, 200), torch.rand(4, 1)
    part = x[..., 40:168].unflatten(-1, (4, 32))
    expected = fused.rms_norm(part.double(), weight.double(), 1e-3)
    assert_close(norms.normalise(part, weight, 1e-3), expected, 1e-6, "norm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu(dtype: torch.dtype) -> None:
    check(norms.swiglu, fused.swiglu, [3 * torch.randn(2, 5, 96).to(dtype)])


@pytest.mark.parametrize("autocast", [False, True])
def test_the_softmax_of_the_loss(autocast: bool) -> None:
    torch.manual_seed(0)
    x, weight, targets = torch.randn(30, 16), torch.randn(64, 16), torch.randint(0, 64, (30,))
    targets[3], targets[20:24] = -100, -1

    def loss(x: Tensor, weight: Tensor, softmax: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast and x.dtype == torch.float32):
            return linear_cross_entropy(x, weight, targets, softmax)

    expected = results(lambda *parts: loss(*parts, fused.softmax_), [x.double(), weight.double()])
    for got, exact in zip(results(lambda *parts: loss(*parts, cross_entropy.softmax_), [x, weight]), expected,
                          strict=True):
        assert_close(got, exact, 1e-2 if autocast else 1e-6, "loss or gradient")
    with torch.no_grad():
        assert_close(loss(x, weight, cross_entropy.softmax_), expected[0], 1e-2 if autocast else 1e-6,
                     "no gradient")
        assert loss(x * torch.nan, weight, cross_entropy.softmax_).isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_and_sizes_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 32).to(dtype), torch.ones(32)
    assert torch.equal(norms.normalise(x, weight, 1e-3), fused.normalise(x, weight, 1e-3))
    assert torch.equal(norms.swiglu(x), fused.swiglu(x))
    assert torch.equal(norms.swiglu(torch.ones(3, 14)), fused.swiglu(torch.ones(3, 14)))
    taps = [torch.randn(shape).to(dtype) for shape in ((3, 32), (3, 3, 32), (32, 4))]
    for got, expected in zip(convolution.short_convolution_step(*taps, None),
                             short_convolution_step(*taps, None), strict=True):
        assert torch.equal(got, expected)
    targets = torch.zeros(3, 1, dtype=torch.int64)
    shares = torch.ones(3, 1).to(torch.promote_types(dtype, torch.float32))
    for got, expected in zip(cross_entropy.softmax_(x.clone(), targets, shares, True),
                             fused.softmax_(x.clone(), targets, shares, True), strict=True):
        assert torch.equal(got, expected)
