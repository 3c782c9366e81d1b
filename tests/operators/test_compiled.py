"""Compiled kernels alone: recurrences against the float64 references, what surrounds them against torch's
formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close
from torch import Tensor

from flashnas.network.loss import linear_cross_entropy
from flashnas.operators.compiled import convolution, cross_entropy, gla, norms, selective_scan, ssd, steps
from flashnas.operators.parts import fused
from flashnas.operators.parts.convolution import short_convolution, short_convolution_step
from flashnas.operators.recurrences.gla import gla_reference
from flashnas.operators.recurrences.selective_scan import scan_reference
from flashnas.operators.recurrences.ssd import ssd_reference

Rule = Callable[..., tuple[Tensor, Tensor]]
BATCH = 2


def ssd_of_inputs(q: Tensor, k: Tensor, x: Tensor, dt: Tensor, rate: Tensor,
                  state: Tensor) -> tuple[Tensor, Tensor]:
    return ssd_reference(q, k, x * dt.unsqueeze(-1), -dt * rate, state)


def scan_of_inputs(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor,
                   state: Tensor) -> tuple[Tensor, Tensor]:
    return scan_reference(dt * x, dt, a, b, c, state)


def case(name: str, tokens: int, batch: int = BATCH) -> tuple[Rule, Rule, list[Tensor], int]:
    """(reference, compiled, float32 arguments with the state last, how many of them are activations)."""
    torch.manual_seed(tokens)
    kind, _, variant = name.partition(" ")
    # odd: sizes that do not fill vectors
    odd, strength = variant == "odd", 400.0 if variant == "strong" else 1.0
    if kind == "scan":
        channels, entries = (21, 5) if odd else (32, 16)
        x, dt = torch.randn(batch, tokens, channels), 0.1 * strength * torch.rand(batch, tokens, channels)
        b, c = torch.randn(2, batch, tokens, entries)
        return scan_of_inputs, selective_scan.scan_of_inputs, [
            x, dt, -4 * torch.rand(entries, channels), b, c, torch.randn(batch, entries, channels)], 1
    heads, key, value = (4, 24, 5) if odd else (4, 64, 128) if variant == "wide" else (4, 32, 48)
    groups = heads if kind == "gla" else 1 if variant == "wide" else 2
    q, k = F.normalize(torch.randn(2, batch, tokens, groups, key), dim=-1)
    v, state = torch.randn(batch, tokens, heads, value), torch.randn(batch, heads, key, value)
    if kind == "ssd":
        dt = 0.1 * strength * torch.rand(batch, tokens, heads)
        return ssd_of_inputs, ssd.ssd_scan, [q, k, v, dt, 0.2 + torch.rand(heads), state], 3
    return gla_reference, gla.gla, [q, k, v, -0.1 * strength * torch.rand(batch, tokens, heads, key),
                                    state], 3


def results(rule: Callable[..., Tensor | tuple[Tensor, Tensor]], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of a weighted sum of them."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
    outputs = rule(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    total = sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in outputs)
    return [*(part.detach() for part in outputs), *torch.autograd.grad(total, leaves)]


TIMELESS = {"ssd": 4, "scan": 2}  # the argument without a time dimension
RECURRENCES = [f"{kind}{variant}" for kind in ("ssd", "gla", "scan") for variant in ("", " odd", " strong")]


@pytest.mark.parametrize("tokens", [1, 33, 150])
@pytest.mark.parametrize("name", RECURRENCES)
def test_a_recurrence_equals_the_reference(name: str, tokens: int) -> None:
    """Strong decay cuts a chunk into segments, down to single tokens."""
    reference, compiled, arguments, _ = case(name, tokens)
    expected = results(reference, [tensor.double() for tensor in arguments])
    for n, (got, exact) in enumerate(zip(results(compiled, arguments), expected, strict=True)):
        # under decay that leaves nothing of a token for the next, gradients of decays are differences near
        # zero
        decays = name.endswith("strong") and n - 2 in (3, 4)
        assert_close(got, exact, 2e-3 if decays else 2e-5, f"result {n}")


@pytest.mark.parametrize("name", RECURRENCES)
def test_a_recurrence_takes_bfloat16(name: str) -> None:
    """Activations widened, gradients of them rounded; everything inside in float32."""
    reference, compiled, arguments, activations = case(name, 70)
    arguments[:activations] = [tensor.bfloat16() for tensor in arguments[:activations]]
    expected = results(reference, [tensor.double() for tensor in arguments])
    for n, (got, exact) in enumerate(zip(results(compiled, arguments), expected, strict=True)):
        rounded = 2 <= n < 2 + activations
        assert got.dtype == (torch.bfloat16 if rounded else torch.float32)
        assert_close(got, exact, 5e-3 if rounded else 2e-3 if "strong" in name else 2e-5, f"result {n}")


@pytest.mark.parametrize("name", ["ssd", "ssd odd", "gla", "gla odd", "scan", "scan odd"])
def test_a_state_continues_a_sequence(name: str) -> None:
    _, compiled, (*arguments, state), _ = case(name, 100)
    timeless = TIMELESS.get(name.split()[0])
    expected, final = compiled(*arguments, state)
    outputs = []
    for part in (slice(0, 41), slice(41, 42), slice(42, 100)):
        o, state = compiled(*(x if n == timeless else x[:, part] for n, x in enumerate(arguments)), state)
        outputs.append(o)
    assert_close(torch.cat(outputs, 1), expected, 1e-5, "outputs")
    assert_close(state, final, 1e-5, "final state")


@pytest.mark.parametrize("name", ["ssd", "gla", "scan"])
def test_parts_of_a_projection_are_read_where_they_are(name: str) -> None:
    """Neither batch nor time nor the parts' neighbours may be mistaken for the part."""
    _, compiled, arguments, activations = case(name, 40)
    expected = results(compiled, arguments)
    whole = torch.cat([part.flatten(2) for part in arguments[:activations]], -1)
    for surrounded in (F.pad(whole, (3, 5)),
                       F.pad(whole, (3, 5)).transpose(0, 1).contiguous().transpose(0, 1)):
        parts = surrounded[..., 3:-5].split([part[0, 0].numel() for part in arguments[:activations]], -1)
        views = [part.unflatten(-1, old.shape[2:]) for part, old in zip(parts, arguments, strict=False)]
        o, state = compiled(*views, *arguments[activations:])
        assert torch.equal(o, expected[0])
        assert torch.equal(state, expected[1])


STEPS = {"ssd": ssd.ssd_scan_step, "gla": gla.gla_step, "scan": selective_scan.scan_of_inputs_step}


@torch.no_grad()
def stepped(name: str, arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One step after the other: (outputs, final state)."""
    *inputs, state = arguments
    kind, outputs = name.split()[0], []
    for t in range(inputs[0].shape[1]):
        o, state = STEPS[kind](*(x if n == TIMELESS.get(kind) else x[:, t] for n, x in enumerate(inputs)),
                               state)
        outputs.append(o)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*RECURRENCES, "ssd wide", "gla wide"])
def test_steps_are_the_sequence(name: str, batch: int, dtype: torch.dtype) -> None:
    """And write the state in place, unless its sizes do not fill vectors."""
    reference, compiled, arguments, activations = case(name, 9, batch)
    arguments[:activations] = [tensor.to(dtype) for tensor in arguments[:activations]]
    if name.startswith("scan") and batch > 1:
        arguments[2] = arguments[2].T.contiguous().T  # as the layer has it
    expected, whole = reference(*(tensor.double() for tensor in arguments)), compiled(*arguments)
    for n, (got, exact, other) in enumerate(zip(stepped(name, arguments), expected, whole, strict=True)):
        assert got.dtype == torch.float32
        assert_close(got, exact, 1e-5, f"steps against the reference, result {n}")
        assert_close(got, other, 1e-5, f"steps against the sequence, result {n}")
        assert n == 0 or "odd" in name or got.data_ptr() == arguments[-1].data_ptr()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_leaves_a_state_that_gradients_need(name: str) -> None:
    _, compiled, arguments, _ = case(name, 5)
    expected = results(compiled, arguments)
    leaves = [tensor.requires_grad_() for tensor in arguments]
    o, state = compiled(*leaves)
    _, after = stepped(name, [*leaves[:-1], state])
    assert not torch.equal(after, state)
    torch.manual_seed(1)
    total = sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in (o, state))
    assert all(map(torch.equal, [o, state, *torch.autograd.grad(total, leaves)], expected))


@pytest.mark.parametrize("name", STEPS)
def test_threads_share_the_sequences_of_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SHARE", 1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(stepped(name, case(name, 3, 3)[2]))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", ["ssd", "gla", "scan"])
def test_gradients_of_gradients_are_refused(name: str) -> None:
    _, compiled, arguments, _ = case(name, 5)
    leaves = [tensor.requires_grad_() for tensor in arguments]
    gradient, = torch.autograd.grad(compiled(*leaves)[0].square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_scan_without_a_state_starts_at_zero() -> None:
    _, compiled, (*arguments, state), _ = case("scan", 20)
    for got, expected in zip(compiled(*arguments, None), compiled(*arguments, torch.zeros_like(state)),
                             strict=True):
        assert torch.equal(got, expected)


# -- what surrounds them -------------------------------------------------------------------------------------


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
