"""The recurrences alone: correlated keys and strong decay in both precisions, and fla's plain
implementations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.operators.recurrences.chunks import unit_lower_inverse
from flashnas.operators.recurrences.delta_rule import delta_rule_chunked, delta_rule_reference
from flashnas.operators.recurrences.gla import gla_chunked, gla_reference
from flashnas.operators.recurrences.ssd import ssd_chunked, ssd_reference

Core = tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., tuple[Tensor, Tensor]], list[Tensor]]


def correlated(*shape: int) -> Tensor:
    """Unit vectors [B, T, H, K] around one direction per sequence."""
    batch, _, heads, dim = shape
    return F.normalize(torch.randn(batch, 1, heads, dim) + 0.05 * torch.randn(*shape), dim=-1)


def core_case(name: str, tokens: int) -> Core:
    """(reference, chunked, float32 arguments with the state last)."""
    torch.manual_seed(tokens)
    batch, heads = 2, 4
    kind, _, variant = name.partition(" ")
    dim = 64 if variant == "wide" else 16
    q, k = correlated(batch, tokens, heads, dim), correlated(batch, tokens, heads, dim)
    v, state = torch.randn(batch, tokens, heads, 24), torch.randn(batch, heads, dim, 24)
    strong = variant == "strong"
    g = -torch.rand(batch, tokens, heads) * (40 if strong else 0.1)
    if kind == "delta":
        beta = torch.full((batch, tokens, heads), 0.99)
        run = lambda rule: lambda q, k, v, beta, state: rule(q, k, v, beta, None, state)  # noqa: E731
        return run(delta_rule_reference), run(delta_rule_chunked), [q, k, v, beta, state]
    if kind == "gated_delta":
        beta = torch.full((batch, tokens, heads), 0.99)
        return delta_rule_reference, delta_rule_chunked, [q, k, v, beta, g, state]
    if kind == "ssd":
        return ssd_reference, ssd_chunked, [q[:, :, :2], k[:, :, :2], v, g, state]
    return gla_reference, gla_chunked, [q, k, v, -torch.rand(q.shape) * (40 if strong else 0.1), state]


CASES = ("delta", "delta wide", "gated_delta", "gated_delta wide", "gated_delta strong", "ssd", "ssd strong",
         "gla", "gla wide", "gla strong")


def results(rule: Callable[..., tuple[Tensor, Tensor]], arguments: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in arguments]
    o, state = rule(*leaves)
    torch.manual_seed(1)
    total = (o * torch.randn(o.shape, dtype=torch.float64)).sum() + (
        state * torch.randn(state.shape, dtype=torch.float64)).sum()
    return [o.detach(), state.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("tokens", [1, 63, 65, 300])
@pytest.mark.parametrize("name", CASES)
def test_chunked_equals_reference(name: str, tokens: int) -> None:
    reference, chunked, arguments = core_case(name, tokens)
    expected = results(reference, [tensor.double() for tensor in arguments])
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        got = results(chunked, [tensor.to(dtype) for tensor in arguments])
        for n, (result, tensor) in enumerate(zip(got, expected, strict=True)):
            assert result.isfinite().all()
            assert_close(result, tensor, tolerance, f"{dtype} result {n}")


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("name", ["delta wide", "gated_delta", "ssd strong", "gla strong"])
def test_chunk_length_does_not_matter(name: str, chunk: int) -> None:
    reference, chunked, arguments = core_case(name, 100)
    if name.startswith("delta"):
        def chunked(*arguments: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
            q, k, v, beta, state = arguments
            return delta_rule_chunked(q, k, v, beta, None, state, chunk)
    expected = reference(*[tensor.double() for tensor in arguments])
    got = chunked(*arguments, chunk=chunk)
    for result, tensor in zip(got, expected, strict=True):
        assert_close(result, tensor, 1e-4, name)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_inverse_survives_parallel_keys(size: int) -> None:
    # the worst case: all keys equal, beta 0.99; powers of the matrix reach 1e6 and more, its inverse stays
    # below 1
    lower = torch.full((3, size, size), 0.99, dtype=torch.float64).tril(-1)
    exact = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + lower)
    assert_close(unit_lower_inverse(lower), exact, 1e-12, "float64")
    assert_close(unit_lower_inverse(lower.float()), exact, 1e-5, "float32")


def test_inverse_gradient() -> None:
    torch.manual_seed(0)
    lower = (0.5 * torch.randn(2, 16, 16, dtype=torch.float64)).tril(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_lower_inverse(x.tril(-1)), lower)


# -- fla's plain implementations; their layouts and scales differ --------------------------------------------


def test_delta_rule_equals_fla() -> None:
    naive = pytest.importorskip("fla.ops.delta_rule.naive")
    reference, _, (q, k, v, beta, state) = core_case("delta", 65)
    o, final = naive.delta_rule_recurrence(*(x.transpose(1, 2) for x in (q, k, v)), beta.transpose(1, 2),
                                           state)
    expected = reference(q.double() * q.shape[-1] ** -0.5, k.double(), v.double(), beta.double(),
                         state.double())
    assert_close(o.transpose(1, 2), expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")


def test_gated_delta_rule_equals_fla() -> None:
    naive = pytest.importorskip("fla.ops.gated_delta_rule.naive")
    reference, _, (q, k, v, beta, g, state) = core_case("gated_delta", 65)
    o, final = naive.naive_recurrent_gated_delta_rule(q, k, v, beta=beta, g=g, scale=1.0, initial_state=state,
                                                      output_final_state=True)
    expected = reference(*(x.double() for x in (q, k, v, beta, g, state)))
    assert_close(o, expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")


def test_gla_equals_fla() -> None:
    naive = pytest.importorskip("fla.ops.gla.naive")
    reference, _, (q, k, v, g, state) = core_case("gla", 65)
    o, final = naive.naive_recurrent_gla(q, k, v, g, initial_state=state, output_final_state=True)
    expected = reference(q.double() * q.shape[-1] ** -0.5, *(x.double() for x in (k, v, g, state)))
    assert_close(o, expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")


def test_ssd_equals_fla() -> None:
    naive = pytest.importorskip("fla.ops.simple_gla.naive")
    reference, _, (q, k, v, g, state) = core_case("ssd", 65)
    wide_q, wide_k = (x.repeat_interleave(2, 2) for x in (q, k))
    o, final = naive.naive_recurrent_simple_gla(wide_q, wide_k, v, g, scale=1.0, initial_state=state)
    expected = reference(*(x.double() for x in (q, k, v, g, state)))
    assert_close(o, expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")
