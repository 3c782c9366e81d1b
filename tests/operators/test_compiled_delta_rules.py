"""The delta rules and RWKV7's recurrence as Numba compiles them, against the float64 reference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.base.errors import OperatorError
from flashnas.operators.backends.core import Core
from flashnas.operators.recurrences.delta_rule import (
    delta_rule_chunked,
    delta_rule_reference,
    delta_rule_step,
)
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_reference, dplr_step, kda_chunked, kda_step

Rule = Callable[..., tuple[Tensor, Tensor]]
FLOAT32 = 1e-4
TORCH = {"delta_rule": (delta_rule_chunked, delta_rule_step),
         "gated_delta_rule": (delta_rule_chunked, delta_rule_step), "kda": (kda_chunked, kda_step),
         "dplr": (dplr_chunked, dplr_step)}
DECAYS = {"none": 0.0, "weak": 0.1, "strong": 40.0}


def kda_reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor,
                  state: Tensor) -> tuple[Tensor, Tensor]:
    return dplr_reference(q, k * beta.unsqueeze(-1), v, -k, None, g, state)


REFERENCES: dict[str, Rule] = {"delta_rule": delta_rule_reference, "gated_delta_rule": delta_rule_reference,
                               "kda": kda_reference, "dplr": dplr_reference}


def kernels(kind: str, key_dim: int = 16, value_dim: int = 16) -> Core:
    return Core(kind, kind, TORCH[kind], key_dim=key_dim, value_dim=value_dim)


def arguments(kind: str, tokens: int, key_dim: int, value_dim: int, decay: str) -> list[Tensor]:
    """Float32, the state last; unit keys around one direction, so that rates near 1 meet keys that are alike.
    """
    torch.manual_seed(tokens + key_dim)
    batch, heads = 2, 3

    def units() -> Tensor:
        around = torch.randn(batch, 1, heads, key_dim)
        return F.normalize(around + 0.3 * torch.randn(batch, tokens, heads, key_dim), dim=-1)

    q, k, v, state = units(), units(), torch.randn(batch, tokens, heads, value_dim), torch.randn(
        batch, heads, key_dim, value_dim)
    beta = 0.99 - torch.rand(batch, tokens, heads) * torch.tensor([0.0, 0.5, 0.99])  # one head always near 1
    g = -torch.rand(batch, tokens, heads, key_dim) * DECAYS[decay]
    if kind == "dplr":
        kk = units()
        return [q, k, v, -kk, kk * beta.unsqueeze(-1), g, state]
    return [q, k, v, beta, g if kind == "kda" else g[..., 0].contiguous(), state]


def with_gradients(kind: str, rule: Rule, tensors: list[Tensor]) -> list[Tensor]:
    """Output, final state, and the gradients of all inputs by a weighted sum of both."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    passed: list[Tensor | None] = list(leaves)
    if kind == "delta_rule":
        passed[4] = None
        leaves.pop(4)
    o, state = rule(*passed)
    torch.manual_seed(1)
    total = (o * torch.randn(o.shape, dtype=torch.float64)).sum() + (
        state * torch.randn(state.shape, dtype=torch.float64)).sum()
    return [o.detach(), state.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize(("tokens", "key_dim", "value_dim", "decay"), [
    (1, 16, 16, "weak"), (16, 64, 64, "weak"), (63, 16, 48, "strong"), (65, 32, 128, "none"),
    (130, 48, 32, "weak"), (33, 128, 64, "strong"), (37, 8, 8, "weak"), (40, 68, 40, "strong"),
    (21, 20, 32, "none")])
@pytest.mark.parametrize("kind", TORCH)
def test_results_and_all_gradients_equal_the_reference(kind: str, tokens: int, key_dim: int, value_dim: int,
                                                       decay: str) -> None:
    tensors = arguments(kind, tokens, key_dim, value_dim, decay)
    run = kernels(kind, key_dim, value_dim).of(tensors[0])
    assert run.name.startswith("numba ")
    expected = with_gradients(kind, REFERENCES[kind], [tensor.double() for tensor in tensors])
    for n, (got, tensor) in enumerate(zip(with_gradients(kind, run.forward, tensors), expected, strict=True)):
        assert got.isfinite().all()
        assert_close(got, tensor, FLOAT32, f"result {n}")


@pytest.mark.parametrize("sizes", [(32, 16), (20, 24)])
@pytest.mark.parametrize("kind", TORCH)
def test_a_sequence_in_pieces_and_in_steps_is_the_whole(kind: str, sizes: tuple[int, int]) -> None:
    *inputs, state = arguments(kind, 40, *sizes, "weak")
    run = kernels(kind).of(inputs[0])
    if kind == "delta_rule":
        inputs[4] = None
    part = lambda n, until: [x if x is None else x[:, n:until] for x in inputs]  # noqa: E731
    with torch.no_grad():
        before, whole, final = state.clone(), *run.forward(*inputs, state)
        assert torch.equal(state, before), "the state that was passed is not written"
        nothing, same = run.forward(*part(0, 0), state)
        assert nothing.shape == whole[:, :0].shape
        assert torch.equal(same, state)
        first, between = run.forward(*part(0, 23), state)
        second, last = run.forward(*part(23, 39), between)
        outputs = [first, second]
        one, last = run.step(*(x if x is None else x[:, 39] for x in inputs), last)
    assert_close(torch.cat([*outputs, one.unsqueeze(1)], 1), whole, 1e-6, "outputs")
    assert_close(last, final, 1e-6, "state")


@pytest.mark.parametrize("kind", TORCH)
def test_half_precision_and_parts_of_other_tensors(kind: str) -> None:
    """Inputs are rounded, the recurrence is not: as from the same numbers in float32. Gradients are in their
    dtype."""
    *inputs, state = arguments(kind, 21, 32, 32, "weak")
    run = kernels(kind).of(inputs[0])
    half = [x.bfloat16() if x.ndim == 4 else x for x in inputs]
    wide = [torch.cat([x, x, x], -2 if x.ndim == 4 else -1) for x in half]  # heads are then far apart
    views = [x.narrow(-2 if x.ndim == 4 else -1, 3, 3) for x in wide]
    assert not views[0].is_contiguous()
    expected = with_gradients(kind, run.forward, [*(x.float() for x in half), state])
    got = with_gradients(kind, run.forward, [*views, state])
    for n, (result, tensor) in enumerate(zip(got[:2], expected[:2], strict=True)):
        assert torch.equal(result, tensor), n
    for n, (result, tensor) in enumerate(zip(got[2:], expected[2:], strict=True)):
        assert_close(result, tensor, 0.01 if result.dtype == torch.bfloat16 else 1e-6, f"gradient {n}")
    assert got[2].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", TORCH)
def test_what_has_no_gradient_is_left_out(kind: str) -> None:
    """Only one input needs a gradient, and only the state is used."""
    *inputs, state = arguments(kind, 19, 16, 16, "weak")
    inputs[1].requires_grad_()
    passed: list[Tensor | None] = list(inputs)
    if kind == "delta_rule":
        passed[4] = None
    (got,) = torch.autograd.grad(kernels(kind).of(inputs[0]).forward(*passed, state)[1].sum(), inputs[1])
    doubles = [None if x is None else x.detach().double() for x in passed]
    key = doubles[1].requires_grad_()
    (expected,) = torch.autograd.grad(REFERENCES[kind](*doubles, state.double())[1].sum(), key)
    assert_close(got, expected, FLOAT32, "gradient of k")


def test_a_decay_that_is_not_a_number_shows() -> None:
    q, k, v, beta, g, state = arguments("kda", 4, 16, 16, "weak")
    g[0, 1, 0, 3] = torch.nan
    o, final = kernels("kda").of(q).forward(q, k, v, beta, g, state)
    assert o[0, 1:, 0].isnan().all()
    assert final[0, 0].isnan().any()
    assert final[1].isfinite().all()
    g[0, 1, 0, 3] = -torch.inf
    assert kernels("kda").of(q).forward(q, k, v, beta, g, state)[0].isfinite().all()


def test_a_rate_of_zero_has_a_gradient() -> None:
    q, k, v, beta, g, state = arguments("gated_delta_rule", 20, 16, 16, "weak")
    beta[:, ::2] = 0
    run = kernels("gated_delta_rule").of(q)
    expected = with_gradients("gated_delta_rule", delta_rule_reference,
                              [x.double() for x in (q, k, v, beta, g, state)])
    for got, tensor in zip(with_gradients("gated_delta_rule", run.forward, [q, k, v, beta, g, state]),
                           expected, strict=True):
        assert_close(got, tensor, FLOAT32, "result")


@pytest.mark.parametrize("kind", ["gated_delta_rule", "kda", "dplr"])
def test_gradients_of_gradients_are_those_of_the_reference(kind: str) -> None:
    def second(rule: Rule, tensors: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in tensors]
        o, state = rule(*leaves)
        first = torch.autograd.grad(o.square().sum() + state.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(x.square().sum() for x in first), leaves))

    tensors = arguments(kind, 5, 16, 16, "weak")
    expected = second(REFERENCES[kind], [x.double() for x in tensors])
    for n, (got, tensor) in enumerate(zip(second(kernels(kind).of(tensors[0]).forward, tensors), expected,
                                          strict=True)):
        assert_close(got, tensor, FLOAT32, f"second gradient {n}")


@pytest.mark.parametrize("kind", ["gated_delta_rule", "dplr"])
def test_threads_share_the_batch(kind: str) -> None:
    tensors, before = arguments(kind, 20, 16, 16, "weak"), torch.get_num_threads()
    rule = kernels(kind).of(tensors[0]).forward
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(kind, rule, tensors))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for some in results[1:] for one,
               other in zip(results[0], some, strict=True))


def test_what_numba_does_not_take_is_torch() -> None:
    core = kernels("kda")
    assert core.kernels("cpu", torch.float64).name == "torch"
    assert kernels("kda", 272).of(torch.zeros(1)).name == "torch"
    q, gated = torch.zeros(1, 3, 2, 16, device="meta"), kernels("gated_delta_rule")
    o, state = gated.of(q).forward(q, q, q, q[..., 0], q[..., 0], torch.zeros(1, 2, 16, 16, device="meta"))
    assert (o.device.type, state.shape) == ("meta", (1, 2, 16, 16))
    core = kernels("kda", 272)
    core.choose("numba")
    with pytest.raises(OperatorError,
                       match=r"backend numba cannot run it: it takes a key_dim up to 256; got 272;"
                                            r" allowed here: auto, torch$"):
        core.of(torch.zeros(1))
    with pytest.raises(OperatorError, match=r"it runs on cpu only; the tensors are on cuda"):
        core.kernels("cuda", torch.float32)


RUN = """
import torch
from flashnas.operators.compiled.delta_rule import delta_rule
torch.manual_seed(0)
q, v = torch.randn(1, 5, 1, 16), torch.randn(1, 5, 1, 16)
print(delta_rule(q, q, v, torch.rand(1, 5, 1), None, torch.zeros(1, 1, 16, 16))[0].sum().item())
"""


@pytest.mark.slow
def test_several_processes_compile_at_once_and_later_ones_load(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE,
                                text=True)

    outputs = [process.communicate()[0] for process in [start() for _ in range(3)]]
    outputs.append(start().communicate()[0])
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert "data saved" in outputs[0]
    assert "data loaded" in outputs[-1]
    assert "data saved" not in outputs[-1]


def test_without_a_folder_to_write_to_it_compiles_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    from flashnas.operators.compiled import jit
    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])
    assert jit.compiled(lambda x: x + 1)(2) == 3


def test_numba_is_imported_with_the_first_call() -> None:
    program = ("import sys, torch; from flashnas.architecture import Architecture;"
               "from flashnas.network.model import HybridLM;"
               "model = HybridLM(Architecture.parse('64(vocab=300): gd(head_dim=16) f'));"
               "assert 'numba' not in sys.modules;"
               "model(torch.zeros(1, 3, dtype=torch.long)); assert 'numba' in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)
