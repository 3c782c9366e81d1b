"""The diagonal plus low-rank recurrence alone: against its plain loop in both precisions, and against fla's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.operators.recurrences.dplr import MAX_DECAY, dplr_chunked, dplr_reference

Rule = Callable[..., tuple[Tensor, Tensor]]
HEADS = 4
# strongest decay of a token: RWKV7's, one that leaves a chunk of 32 near MAX_DECAY, and beyond it
DECAYS = {"weak": 0.607, "near": 3.0, "strong": 40.0, "all": 1e4}


def unit(*shape: int) -> Tensor:
    """Unit vectors [B, T, H, K] around one direction per sequence."""
    return F.normalize(torch.randn(shape[0], 1, *shape[2:]) + 0.05 * torch.randn(*shape), dim=-1)


def arguments(tokens: int, dim: int, decay: str) -> list[Tensor]:
    """q, k, v, a, b, g, state in float32: b takes out 0.99 of what the unit vector -a reads."""
    torch.manual_seed(tokens)
    shape = (2, tokens, HEADS, dim)
    q, k, a = unit(*shape), unit(*shape), -unit(*shape)
    v, state = torch.randn(*shape[:3], 24), torch.randn(2, HEADS, dim, 24)
    g = -torch.rand(shape) * DECAYS[decay] * (torch.rand(shape) > 0.5)  # some channels do not decay
    return [q, k, v, a, -0.99 * a, g, state]


def delta(rule: Rule) -> Rule:
    """The form with one vector that writes."""
    return lambda q, k, v, a, b, g, state: rule(q, -0.99 * a, v, a, None, g, state)


def results(rule: Rule, tensors: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    o, state = rule(*leaves)
    torch.manual_seed(1)
    total = sum((x * torch.randn(x.shape, dtype=torch.float64)).sum() for x in (o, state))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [o.detach(), state.detach(), *(x for x in gradients if x is not None)]


@pytest.mark.parametrize("form", ["general", "delta"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("tokens", "dim"), [(1, 16), (63, 16), (64, 64), (65, 16), (300, 16), (100, 64)])
def test_chunked_equals_reference(tokens: int, dim: int, decay: str, form: str) -> None:
    wrap = delta if form == "delta" else (lambda rule: rule)
    tensors = arguments(tokens, dim, decay)
    expected = results(wrap(dplr_reference), [tensor.double() for tensor in tensors])
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        got = results(wrap(dplr_chunked), [tensor.to(dtype) for tensor in tensors])
        for n, (result, tensor) in enumerate(zip(got, expected, strict=True)):
            assert result.isfinite().all()
            assert_close(result, tensor, tolerance, f"{dtype} result {n}")


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("decay", DECAYS)
def test_chunk_length_does_not_matter(decay: str, chunk: int) -> None:
    tensors = arguments(100, 16, decay)
    expected = dplr_reference(*(tensor.double() for tensor in tensors))
    for result, tensor in zip(dplr_chunked(*tensors, chunk=chunk), expected, strict=True):
        assert_close(result, tensor, 1e-4, "result")


def test_both_ways_to_the_scores_meet() -> None:
    tensors = arguments(64, 16, "weak")
    tensors[5][:, 0] = -0.8 * MAX_DECAY  # 15 more tokens stay below it
    below = dplr_chunked(*tensors, chunk=16)
    tensors[5][0, 0] -= 1000  # one sequence beyond the limit: the other must not notice
    above = dplr_chunked(*tensors, chunk=16)
    for one, other in zip(below, above, strict=True):
        assert_close(other[1], one[1], 1e-5, "the sequence that did not change")


def test_general_form_equals_flas() -> None:
    naive = pytest.importorskip("fla.ops.generalized_delta_rule.dplr.naive")
    q, k, v, a, b, g, state = arguments(65, 16, "weak")
    # fla's a reads the state before its decay
    o, final = naive.dplr_recurrence(*(x.transpose(1, 2) for x in (q * 4, k, v, a * g.exp(), b, g)), state)
    expected = dplr_reference(*(x.double() for x in (q, k, v, a, b, g, state)))
    assert_close(o.transpose(1, 2), expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")


def test_delta_form_equals_flas() -> None:
    naive = pytest.importorskip("fla.ops.kda.naive")
    q, k, v, _, _, g, state = arguments(65, 16, "strong")
    beta = torch.rand(2, 65, HEADS)
    o, final = naive.naive_recurrent_kda(q, k, v, g, beta, scale=1.0, initial_state=state,
                                         output_final_state=True)
    q, k, v, g, beta, state = (x.double() for x in (q, k, v, g, beta, state))
    expected = dplr_reference(q, beta.unsqueeze(-1) * k, v, -k, None, g, state)
    assert_close(o, expected[0], 1e-5, "output")
    assert_close(final, expected[1], 1e-5, "state")
