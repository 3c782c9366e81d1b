"""Recurrences as Numba compiles them, against the float64 references: results, gradients, states, steps, threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.base.errors import OperatorError
from flashnas.operators.backends.core import Core
from flashnas.operators.compiled import linear_attention, selective_scan, steps
from flashnas.operators.recurrences.delta_rule import delta_rule_chunked, delta_rule_reference, delta_rule_step
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_reference, dplr_step, kda_chunked, kda_step
from flashnas.operators.recurrences.gla import gla_reference
from flashnas.operators.recurrences.selective_scan import scan_reference
from flashnas.operators.recurrences.ssd import ssd_reference

Rule = Callable[..., tuple[Tensor, Tensor]]
HEADS = 4
TORCH: dict[str, tuple[Rule, Rule]] = {
    "delta_rule": (delta_rule_chunked, delta_rule_step), "gated_delta_rule": (delta_rule_chunked, delta_rule_step),
    "kda": (kda_chunked, kda_step), "dplr": (dplr_chunked, dplr_step)}
KINDS = ("ssd", "gla", "scan", *TORCH)
DECAYS = {"ssd": (3, 4), "gla": (3,), "scan": (1, 2, 3, 4), "gated_delta_rule": (4,)}  # whose gradients they are
# key and value dimensions: such as do not fill vectors, and vectors of every width
SIZES = {"odd": (20, 40), "vectors of 32": (16, 32), "vectors of 64": (32, 128)}
VARIANTS = [*(f"{kind}{variant}" for kind in KINDS for variant in ("", " odd", " strong")),
            "delta_rule vectors of 32", "kda vectors of 32", "gated_delta_rule vectors of 64", "dplr vectors of 64"]


@dataclass
class Case:
    """arguments: in float32, the state last. activations: how many of them may be in half precision. timeless: the
    argument that has no time."""

    reference: Rule
    forward: Rule
    step: Rule
    arguments: list[Tensor]
    activations: int = 3
    timeless: int = -1

    def at(self, time: slice | int) -> list[Tensor]:
        """The inputs of a part of the sequence."""
        return [x if n == self.timeless else x[:, time] for n, x in enumerate(self.arguments[:-1])]


def ssd_of_inputs(q: Tensor, k: Tensor, x: Tensor, dt: Tensor, rate: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return ssd_reference(q, k, x * dt.unsqueeze(-1), -dt * rate, state)


def scan_of_inputs(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return scan_reference(dt * x, dt, a, b, c, state)


def kda_reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return dplr_reference(q, k * beta.unsqueeze(-1), v, -k, None, g, state)


def ungated(rule: Rule) -> Rule:
    return lambda q, k, v, beta, state: rule(q, k, v, beta, None, state)


def case(name: str, tokens: int, batch: int = 2) -> Case:
    """Unit keys around one direction, so that rates near 1 meet keys that are alike."""
    torch.manual_seed(tokens)
    kind, _, variant = name.partition(" ")
    strength = 40.0 if variant == "strong" else 0.1
    if kind == "scan":
        channels, entries = (21, 5) if variant == "odd" else (32, 16)
        a = -4 * torch.rand(entries, channels)
        b, c = torch.randn(2, batch, tokens, entries)
        return Case(scan_of_inputs, selective_scan.scan_of_inputs, selective_scan.scan_of_inputs_step, [
            torch.randn(batch, tokens, channels), strength * torch.rand(batch, tokens, channels),
            a.T.contiguous().T if batch > 1 else a, b, c, torch.randn(batch, entries, channels)], 1, 2)
    key, value = SIZES.get(variant, (32, 48))

    def units(heads: int = HEADS) -> Tensor:
        around = torch.randn(batch, 1, heads, key)
        return F.normalize(around + 0.3 * torch.randn(batch, tokens, heads, key), dim=-1)

    v, state = torch.randn(batch, tokens, HEADS, value), torch.randn(batch, HEADS, key, value)
    g = -torch.rand(batch, tokens, HEADS, key) * strength
    if kind == "ssd":
        return Case(ssd_of_inputs, linear_attention.ssd_scan, linear_attention.ssd_scan_step,
                    [units(2), units(2), v, -g[..., 0], 0.2 + torch.rand(HEADS), state], 3, 4)
    q, k = units(), units()
    if kind == "gla":
        return Case(gla_reference, linear_attention.gla, linear_attention.gla_step, [q, k, v, g, state])
    run = Core(kind, kind, TORCH[kind], key_dim=key, value_dim=value).of(v)
    assert run.name.startswith("numba ")
    if kind == "dplr":
        kk, share = units(), 0.99 - torch.rand(batch, tokens, HEADS, 1)
        return Case(dplr_reference, run.forward, run.step, [q, k, v, -kk, kk * share, g, state])
    beta = 0.99 - torch.rand(batch, tokens, HEADS) * torch.tensor([0.0, 0.5, 0.99, 0.1])  # one head always near 1
    if kind == "kda":
        return Case(kda_reference, run.forward, run.step, [q, k, v, beta, g, state])
    if kind == "gated_delta_rule":
        return Case(delta_rule_reference, run.forward, run.step, [q, k, v, beta, g[..., 0].contiguous(), state])
    return Case(ungated(delta_rule_reference), ungated(run.forward), ungated(run.step), [q, k, v, beta, state])


def results(rule: Rule, arguments: list[Tensor]) -> list[Tensor]:
    """Output, final state, and the gradients of all inputs by a weighted sum of both."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
    o, state = rule(*leaves)
    torch.manual_seed(1)
    total = sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in (o, state))
    return [o.detach(), state.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("tokens", [1, 130])
@pytest.mark.parametrize("name", VARIANTS)
def test_results_and_all_gradients_equal_the_reference(name: str, tokens: int) -> None:
    """Strong decay cuts a chunk into segments, down to single tokens."""
    one = case(name, tokens)
    expected = results(one.reference, [tensor.double() for tensor in one.arguments])
    for n, (got, exact) in enumerate(zip(results(one.forward, one.arguments), expected, strict=True)):
        # under decay that leaves nothing of a token for the next, gradients of decays are differences near zero
        decays = name.endswith("strong") and n - 2 in DECAYS.get(name.split()[0], ())
        assert got.isfinite().all()
        assert_close(got, exact, 2e-3 if decays else 1e-4, f"result {n}")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [f"{kind}{variant}" for kind in KINDS for variant in ("", " odd")])
def test_a_sequence_in_pieces_and_in_steps_is_the_whole(name: str, batch: int) -> None:
    """The state that was passed is written by steps alone, in place unless its sizes do not fill vectors."""
    one = case(name, 40, batch)
    given, before = one.arguments[-1], one.arguments[-1].clone()
    with torch.no_grad():
        whole, final = one.forward(*one.arguments)
        outputs, state = [], given
        for part in (slice(0, 23), slice(23, 24), slice(24, 36)):
            o, state = one.forward(*one.at(part), state)
            outputs.append(o)
        assert torch.equal(given, before)
        for t in range(36, 40):
            place = state.data_ptr()
            o, state = one.step(*one.at(t), state)
            outputs.append(o.unsqueeze(1))
            assert t == 36 or "odd" in name or name in TORCH or state.data_ptr() == place
    assert_close(torch.cat(outputs, 1), whole, 1e-5, "outputs")
    assert_close(state, final, 1e-5, "state")


@pytest.mark.parametrize("name", KINDS)
def test_half_precision_and_parts_of_a_projection(name: str) -> None:
    """Inputs are rounded, the recurrence is not: as from the same numbers in float32. Gradients are in their dtype.
    Neither batch nor time nor its neighbours may be mistaken for a part."""
    one = case(name, 21)
    half = [x.bfloat16() if n < one.activations else x for n, x in enumerate(one.arguments)]
    expected = results(one.forward, [x.float() for x in half])
    whole = F.pad(torch.cat([x.flatten(2) for x in half[:one.activations]], -1), (3, 5))
    for surrounded in (whole, whole.transpose(0, 1).contiguous().transpose(0, 1)):
        parts = surrounded[..., 3:-5].split([x[0, 0].numel() for x in half[:one.activations]], -1)
        views = [part.unflatten(-1, x.shape[2:]) for part, x in zip(parts, half, strict=False)]
        for got, exact in zip(one.forward(*views, *half[one.activations:]), expected, strict=False):
            assert_close(got, exact, 1e-6, "part of a projection")
    for n, (got, exact) in enumerate(zip(results(one.forward, half), expected, strict=True)):
        rounded = 2 <= n < 2 + one.activations
        assert got.dtype == (torch.bfloat16 if rounded else torch.float32)
        assert_close(got, exact, 0.01 if rounded else 1e-6, f"result {n}")


@pytest.mark.parametrize("name", KINDS)
def test_what_has_no_gradient_is_left_out(name: str) -> None:
    """Only one input needs a gradient, and only the state is used."""
    one = case(name, 19)
    doubles = [x.double() for x in one.arguments]
    one.arguments[1].requires_grad_()
    doubles[1].requires_grad_()
    got, = torch.autograd.grad(one.forward(*one.arguments)[1].sum(), one.arguments[1])
    expected, = torch.autograd.grad(one.reference(*doubles)[1].sum(), doubles[1])
    assert_close(got, expected, 1e-4, "gradient")


@pytest.mark.parametrize("name", ["ssd", "gla", "scan"])
def test_a_step_leaves_a_state_that_gradients_need(name: str) -> None:
    one = case(name, 5)
    expected = results(one.forward, one.arguments)
    leaves = [tensor.requires_grad_() for tensor in one.arguments]
    o, state = one.forward(*leaves)
    with torch.no_grad():
        _, after = one.step(*one.at(0), state)
    assert not torch.equal(after, state)
    torch.manual_seed(1)
    total = sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in (o, state))
    assert all(map(torch.equal, [o, state, *torch.autograd.grad(total, leaves)], expected))


@pytest.mark.parametrize("name", KINDS)
def test_threads_share_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SHARE", 1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            one = case(name, 9, 3)
            with torch.no_grad():
                stepped = one.step(*one.at(0), one.arguments[-1].clone())
            found.append([*results(one.forward, one.arguments), *stepped])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", ["ssd", "gla", "scan"])
def test_gradients_of_gradients_are_refused(name: str) -> None:
    one = case(name, 5)
    leaves = [tensor.requires_grad_() for tensor in one.arguments]
    gradient, = torch.autograd.grad(one.forward(*leaves)[0].square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["gated_delta_rule", "kda", "dplr"])
def test_gradients_of_gradients_are_those_of_the_reference(name: str) -> None:
    def second(rule: Rule, tensors: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in tensors]
        o, state = rule(*leaves)
        first = torch.autograd.grad(o.square().sum() + state.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(x.square().sum() for x in first), leaves))

    one = case(name, 5)
    expected = second(one.reference, [x.double() for x in one.arguments])
    for n, (got, tensor) in enumerate(zip(second(one.forward, one.arguments), expected, strict=True)):
        assert_close(got, tensor, 1e-4, f"second gradient {n}")


def test_a_scan_without_a_state_starts_at_zero() -> None:
    *inputs, state = case("scan", 20).arguments
    for got, expected in zip(selective_scan.scan_of_inputs(*inputs, None),
                             selective_scan.scan_of_inputs(*inputs, torch.zeros_like(state)), strict=True):
        assert torch.equal(got, expected)


def test_a_decay_that_is_not_a_number_shows_and_a_rate_of_zero_has_a_gradient() -> None:
    kda, gated = case("kda", 4), case("gated_delta_rule", 20)
    kda.arguments[4][0, 1, 0, 3] = torch.nan
    o, final = kda.forward(*kda.arguments)
    assert o[0, 1:, 0].isnan().all()
    assert final[0, 0].isnan().any()
    assert final[1].isfinite().all()
    kda.arguments[4][0, 1, 0, 3] = -torch.inf
    assert kda.forward(*kda.arguments)[0].isfinite().all()
    gated.arguments[3][:, ::2] = 0
    expected = results(gated.reference, [x.double() for x in gated.arguments])
    for got, tensor in zip(results(gated.forward, gated.arguments), expected, strict=True):
        assert_close(got, tensor, 1e-4, "result")


def test_what_numba_does_not_take_is_torch() -> None:
    def kda(key_dim: int) -> Core:
        return Core("kda", "kda", TORCH["kda"], key_dim=key_dim, value_dim=16)

    assert kda(16).kernels("cpu", torch.float64).name == "torch"
    assert kda(272).of(torch.zeros(1)).name == "torch"
    gated = Core("gated_delta_rule", "gated_delta_rule", TORCH["gated_delta_rule"], key_dim=16, value_dim=16)
    q = torch.zeros(1, 3, 2, 16, device="meta")
    o, state = gated.of(q).forward(q, q, q, q[..., 0], q[..., 0], torch.zeros(1, 2, 16, 16, device="meta"))
    assert (o.device.type, state.shape) == ("meta", (1, 2, 16, 16))
    core = kda(272)
    core.choose("numba")
    with pytest.raises(OperatorError, match=r"backend numba cannot run it: it takes a key_dim up to 256; got 272;"
                                            r" allowed here: auto, torch$"):
        core.of(torch.zeros(1))
    with pytest.raises(OperatorError, match=r"it runs on cpu only; the tensors are on cuda"):
        core.kernels("cuda", torch.float32)


RUN = """
import torch
from flashnas.operators.compiled.delta_rule import delta_rule
from flashnas.operators.compiled.linear_attention import gla
torch.manual_seed(0)
q, v = torch.randn(1, 5, 1, 16), torch.randn(1, 5, 1, 16)
gla(q, q, v.requires_grad_(), -torch.rand(1, 5, 1, 16), torch.zeros(1, 1, 16, 16))[0].sum().backward()
print(delta_rule(q, q, v, torch.rand(1, 5, 1), None, torch.zeros(1, 1, 16, 16))[0].sum().item())
"""


@pytest.mark.slow
def test_several_processes_compile_at_once_and_later_ones_load(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE, text=True)

    outputs = [process.communicate()[0] for process in [start() for _ in range(2)]]
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
