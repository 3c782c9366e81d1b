"""The contract of an operator: three forms that agree, and a spec that states what the layer is.

The float64 reference is the ground truth. The other forms equal it in outputs, final states and
gradients, at lengths that do not divide a chunk and with neighbours that differ little, so that
keys are nearly parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashnas.architecture import parse_operators
from flashnas.network.cache import mapped
from flashnas.operators import OPERATORS, OperatorSpec
from flashnas.operators.layer import Layer, build_layer
from flashnas.testing.operator_spec import (
    check_cache_bytes,
    check_kernels,
    check_names,
    check_resolution,
    check_scaling,
    check_tensors,
    require,
    state_tensors,
)

HIDDEN, BATCH = 32, 2
LENGTHS = (1, 63, 64, 65, 1000)
# relative errors allowed in float64, float32 and bfloat16
EXACT, FLOAT32, LOW_PRECISION = 1e-8, 1e-4, 0.03
ROUNDING = 1e-12  # float64: what a sum over another number of tokens may change

Form = Callable[[Tensor, Any], tuple[Tensor, Any]]


def check_operator(
    operator: type[OperatorSpec] | OperatorSpec | str,
    *,
    hidden: int = HIDDEN,
    lengths: Iterable[int] = LENGTHS,
    low_precision_outliers: int = 0,
) -> None:
    """Check that an operator keeps its contract. Of one without a layer its specification is checked
    alone.

    Args:
        operator: a spec; its class or short name, which is checked with its defaults as a proxy
            scales them down to `hidden`; or its notation, such as "gsc(conv_size=4)".
        hidden: width at which its layer is built.
        low_precision_outliers: tokens of 65 that bfloat16 may change wholly, where an operator
            chooses (experts).

    Raises:
        AssertionError: one line that names the operator, the rule and the value.
    """
    spec = spec_of(operator, hidden)
    check_names(spec)
    check_tensors(spec, hidden)
    check_kernels(spec, hidden)
    check_resolution(spec, hidden)
    check_scaling(type(spec)())
    if not spec.layer:
        return
    check_cache_bytes(spec, hidden)
    for tokens in lengths:
        check_parallel_form(spec, tokens, hidden)
        check_steps(spec, tokens, hidden)
    check_gradients_of_steps(spec, hidden)
    check_parts(spec, hidden)
    check_causality(spec, hidden)
    for autocast in (False, True):
        check_low_precision(spec, hidden, autocast=autocast, outliers=low_precision_outliers)


def spec_of(
    operator: type[OperatorSpec] | OperatorSpec | str, hidden: int = HIDDEN
) -> OperatorSpec:
    """The spec that a check is about."""
    if isinstance(operator, str) and operator not in OPERATORS:
        specs = parse_operators(operator)
        require(len(specs) == 1, f"check_operator needs one operator; got {operator!r}")
        return specs[0]
    if isinstance(operator, str):
        operator = OPERATORS[operator]
    return operator if isinstance(operator, OperatorSpec) else operator().scaled(16 * hidden, 16)


# -- the layer and its inputs ----------------------------------------------------------------------


def make_layer(
    spec: OperatorSpec, hidden: int = HIDDEN, dtype: torch.dtype = torch.float64, noise: float = 0.3
) -> Layer:
    """A layer with weights that reach every branch: norms away from 1, biases away from 0, strong
    gates by `noise`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = build_layer(spec, hidden)
        with torch.no_grad():
            for parameter in layer.parameters():
                if parameter.ndim == 1 or not parameter.any():  # low-rank maps may start at zero
                    parameter.add_(noise * torch.randn_like(parameter))
    return layer.to(dtype)


def make_inputs(tokens: int, hidden: int = HIDDEN, batch: int = BATCH) -> Tensor:
    """Correlated inputs x_BTD in float64: neighbours differ little, so that keys are nearly
    parallel.
    """
    generator = torch.Generator().manual_seed(tokens)
    first_B1D = torch.randn(batch, 1, hidden, dtype=torch.float64, generator=generator)
    return first_B1D + 0.3 * torch.randn(
        batch, tokens, hidden, dtype=torch.float64, generator=generator
    )


def random_state(layer: Layer, dtype: torch.dtype = torch.float64) -> Any:
    """A state as after some tokens, of leaf tensors that take gradients."""
    generator = torch.Generator().manual_seed(7)

    def leaf(tensor: Tensor) -> Tensor:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return values.to(tensor.dtype).requires_grad_()

    def filled(part: Any) -> Any:
        if isinstance(part, Tensor):
            return leaf(part)
        seen = 7  # more than the smallest window, and not a multiple of it
        kept = min(seen, part.window) if part.window else seen
        _, groups, _, dim = part.keys_BGTK.shape
        room = part.keys_BGTK.new_zeros(BATCH, groups, kept, dim)
        return replace(part, keys_BGTK=leaf(room), values_BGTK=leaf(room), seen=seen)

    return mapped(layer.init_state(BATCH, dtype), filled)


def weighted_sum(y: Tensor, state: Any) -> Tensor:
    """A scalar that depends on every output and every state entry with a weight of its own."""
    generator = torch.Generator().manual_seed(3)
    parts = []
    for tensor in (y, *state_tensors(state)):
        weight = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        parts.append((tensor.double() * weight.to(tensor.device)).sum())
    return torch.stack(parts).sum()


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Largest difference relative to the largest value expected (at least 1e-3 of absolute
    scale).
    """
    require(
        got.shape == expected.shape,
        f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}",
    )
    if expected.numel() == 0:
        return
    scale = max(expected.abs().max().item(), 1e-3)
    error = (got.double() - expected.double()).abs().max().item() / scale
    require(error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}")


def run_form(
    layer: Layer, form: Form, x: Tensor, state: Any, through_state: bool = True
) -> dict[str, Tensor]:
    """Output, final state and gradients (input, weights, initial state) of one form, by name.

    through_state: the gradients are those of output and final state; else of the output alone.
    """
    x = x.clone().requires_grad_()
    y, after = form(x, state)
    wanted = {
        "x": x,
        **dict(layer.named_parameters()),
        **{f"state {n}": leaf for n, leaf in enumerate(state_tensors(state, stored=True))},
    }
    gradients = torch.autograd.grad(
        weighted_sum(y, after if through_state else None), list(wanted.values()), allow_unused=True
    )
    results = {
        "output": y,
        **{f"final state {n}": tensor for n, tensor in enumerate(state_tensors(after))},
    }
    for (name, tensor), gradient in zip(wanted.items(), gradients, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in results.items()}


def steps_of(layer: Layer, x_BTD: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The steps of all tokens as one form: (outputs [B, T, D], final state)."""
    outputs = []
    for t in range(x_BTD.shape[1]):
        y, state = layer.step(x_BTD[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


# -- the rules -------------------------------------------------------------------------------------


def assert_same_form(layer: Layer, form: Form, x: Tensor, tolerance: float, place: str) -> None:
    """A form equals `reference` from a state that is not empty, in all that `run_form` gives."""
    expected, got = (
        run_form(layer, run, x, random_state(layer, dtype=x.dtype))
        for run in (layer.reference, form)
    )
    for what, tensor in expected.items():
        assert_close(got[what], tensor, tolerance, f"{place}: {what}")


def assert_same_results(got: tuple[Tensor, Any], expected: tuple[Tensor, Any], place: str) -> None:
    """Outputs and final states are equal."""
    assert_close(got[0], expected[0], EXACT, f"{place}: outputs")
    for tensor, right in zip(state_tensors(got[1]), state_tensors(expected[1]), strict=True):
        assert_close(tensor, right, EXACT, f"{place}: final state")


def check_parallel_form(spec: OperatorSpec, tokens: int, hidden: int = HIDDEN) -> None:
    """`forward` equals `reference`, in float64 and in float32."""
    layer, x = make_layer(spec, hidden), make_inputs(tokens, hidden)
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, FLOAT32)):
        layer = layer.to(dtype)
        place = f"operator {spec}, forward against reference, {tokens} tokens, {dtype}"
        assert_same_form(layer, layer.forward, x.to(dtype), tolerance, place)


@torch.no_grad()
def check_steps(spec: OperatorSpec, tokens: int, hidden: int = HIDDEN) -> None:
    """One `step` after the other equals `reference`."""
    layer, x = make_layer(spec, hidden), make_inputs(tokens, hidden)
    state = random_state(layer)
    expected = layer.reference(x, state)
    place = f"operator {spec}, steps against reference, {tokens} tokens"
    assert_same_results(steps_of(layer, x, state), expected, place)


def check_gradients_of_steps(spec: OperatorSpec, hidden: int = HIDDEN) -> None:
    """Steps have the gradients of the reference."""
    layer, x = make_layer(spec, hidden), make_inputs(9, hidden)
    place = f"operator {spec}, steps against reference"
    assert_same_form(layer, partial(steps_of, layer), x, EXACT, place)


@torch.no_grad()
def check_parts(spec: OperatorSpec, hidden: int = HIDDEN) -> None:
    """A sequence computed in parts, by `forward` and by `step`, equals the whole."""
    layer, x = make_layer(spec, hidden), make_inputs(65, hidden)
    first, state = layer(x[:, :30])
    second, state = layer(x[:, 30:47], state)
    third, state = steps_of(layer, x[:, 47:60], state)
    last, state = layer(x[:, 60:], state)
    outputs = torch.cat([first, second, third, last], 1)
    assert_same_results((outputs, state), layer(x), f"operator {spec}, in parts")


@torch.no_grad()
def check_causality(spec: OperatorSpec, hidden: int = HIDDEN, rounding: float = ROUNDING) -> None:
    """A token does not see later ones. rounding: relative change of earlier outputs that is
    allowed.
    """
    layer, x = make_layer(spec, hidden), make_inputs(65, hidden)
    changed = x.clone()
    changed[:, 40:] += 1
    before, after = layer(x)[0], layer(changed)[0]
    assert_close(
        after[:, :40], before[:, :40], rounding, f"operator {spec}, outputs before a changed token"
    )
    require(
        not torch.allclose(before[:, 40:], after[:, 40:]),
        f"operator {spec}: outputs must depend on their token",
    )


def check_low_precision(
    spec: OperatorSpec, hidden: int = HIDDEN, *, autocast: bool, outliers: int = 0
) -> None:
    """bfloat16, of the model or by autocast, is near the reference, with finite gradients."""
    layer, x = make_layer(spec, hidden, torch.float32), make_inputs(65, hidden).float()
    expected = layer.reference(x)[0].detach()
    if not autocast:
        layer, x = layer.bfloat16(), x.bfloat16()
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y, state = layer(x)
        y.float().square().sum().backward()
        with torch.no_grad():
            stepped, _ = layer.step(x[:, 0], layer.init_state(BATCH, torch.bfloat16))
    place = f"operator {spec}, bfloat16{' by autocast' if autocast else ''}"
    require(y.dtype == torch.bfloat16, f"{place}: the output must be bfloat16; got {y.dtype}")
    for what, got, right in (("forward", y.detach(), expected), ("step", stepped, expected[:, 0])):
        error = (got - right).flatten(0, -2).norm(dim=-1)
        kept = (
            error.sort().values[: len(error) - (outliers if what == "forward" else 0)].norm()
            / right.norm()
        )
        require(
            kept < LOW_PRECISION, f"{place}: relative error of {what} {kept:.3f} > {LOW_PRECISION}"
        )
    require(
        all(torch.isfinite(tensor).all() for tensor in state_tensors(state)),
        f"{place}: the state is not finite",
    )
    for name, parameter in (("x", x), *layer.named_parameters()):
        require(
            parameter.grad is not None and torch.isfinite(parameter.grad).all(),
            f"{place}: {name} has no finite gradient",
        )
