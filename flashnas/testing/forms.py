"""The forms of a layer, and how far each is from the float64 reference: what `check_operator` and
the self-test of `flashnas doctor` compare by.

A trained layer computes in float32, or in bfloat16 by autocast. A deployed one reads its prompt and
decodes with weights of that dtype, on CUDA also by a captured graph.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashnas.network.cache import mapped
from flashnas.operators import OperatorSpec
from flashnas.operators.backends.core import choose_backend
from flashnas.operators.layer import Layer, build_layer
from flashnas.profiling.timing import captured
from flashnas.testing.operator_spec import require, state_tensors

HIDDEN, BATCH = 32, 2
# norms and biases away from 1 and 0; with more noise gradients in bfloat16 are ill-conditioned
STRONG, NOISE = 0.3, 0.1
# relative errors allowed in outputs and states; GRADIENTS times as much in gradients
TOLERANCES = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 3e-2}
GRADIENTS = 3
# in bfloat16 also twice what torch's own code shows, where a gradient is a small difference
TWICE, HIGHEST = 2, 0.5
REPLAYED = 1e-2  # of a captured step, against the same step
MIN_NORM = 1e-4  # of a gradient that is compared
MIN_SCALE = 1e-3  # a gradient that is nothing but rounding is compared with it
FORM_OF = {
    "output": "forward",
    "final": "state",
    "gradient": "backward",
}  # of what `run_form` gives

Form = Callable[[Tensor, Any], tuple[Tensor, Any]]


# -- the layer and its inputs ----------------------------------------------------------------------


def make_layer(
    spec: OperatorSpec,
    hidden: int = HIDDEN,
    dtype: torch.dtype = torch.float64,
    noise: float = STRONG,
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


# -- the forms -------------------------------------------------------------------------------------


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


def parts_of(layer: Layer, x_BTD: Tensor, state: Any) -> tuple[Tensor, Any]:
    """65 tokens computed in parts, by `forward` and by `step`, as one form."""
    runs: tuple[Form, ...] = layer, layer, partial(steps_of, layer), layer
    outputs = []
    for run, x in zip(runs, x_BTD.split((30, 17, 13, 5), 1), strict=True):
        y, state = run(x, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


FORMS: dict[str, Callable[[Layer, Tensor, Any], tuple[Tensor, Any]]] = {
    "forward": lambda layer, x_BTD, state: layer(x_BTD, state),
    "steps": steps_of,
    "parts": parts_of,
}


def replayed(call: Callable[[], Tensor]) -> Tensor:
    """What the call, the sixth one, returns when it is replayed from a CUDA graph."""
    outputs: list[Tensor] = []
    captured(lambda: outputs.append(call()))()
    torch.cuda.synchronize()
    return outputs[-1].clone()


@torch.inference_mode()
def decoded(layer: Layer, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs of a prompt, of the last token after it by a step, and by one that is replayed from a
    graph; None where no graph can hold it."""
    batch, tokens, _ = x_BTD.shape
    prompts = [
        layer(x_BTD[:, :-1])
        if tokens > 1
        else (x_BTD[:, :0], layer.init_state(batch, x_BTD.dtype, x_BTD.device))
        for _ in range(6)
    ]
    states = iter([state for _, state in prompts])

    def step() -> Tensor:
        y_BD, _ = layer.step(x_BTD[:, -1], next(states))
        return y_BD

    stepped = step()
    return prompts[0][0], stepped, replayed(step) if x_BTD.is_cuda and not layer.routes else None


# -- how far they are from the reference -----------------------------------------------------------


def difference(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the expected norm, or of MIN_SCALE if that is less."""
    wanted = expected.double()
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=MIN_SCALE)).item()


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise AssertionError unless shapes are equal and the difference is within the tolerance."""
    require(
        got.shape == expected.shape,
        f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}",
    )
    error = difference(got, expected)
    require(error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}")


def compare(
    layer: Layer, dtype: torch.dtype, x_BTD: Tensor, tolerance: float
) -> tuple[dict[str, float], str]:
    """Training and decoding in a dtype against the reference: the largest error of each form, which
    are forward, state, backward, step, and graph where steps are captured; and the first error that
    is above its tolerance, in words."""
    low = dtype == torch.bfloat16
    if low:  # so that both sides start from the same numbers
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(parameter.bfloat16())
        x_BTD = x_BTD.bfloat16().float()
    exact = copy.deepcopy(layer).double()
    expected = run_form(exact, exact.reference, x_BTD.double(), None, through_state=False)

    def trained(module: Layer) -> dict[str, Tensor]:
        with torch.autocast(x_BTD.device.type, dtype=torch.bfloat16, enabled=low):
            return run_form(module, module.forward, x_BTD, None, through_state=False)

    got, usual = trained(layer), dict[str, Tensor]()
    prompt, step, again = decoded(copy.deepcopy(layer).to(dtype), x_BTD.to(dtype))
    for what, output, right in (
        ("output of a prompt", prompt, expected["output"][:, :-1]),
        ("step", step, expected["output"][:, -1]),
        ("graph", again, step),
    ):
        if output is not None:
            got[what], expected[what] = output, right
    limits = {"backward": GRADIENTS * tolerance, "graph": REPLAYED}
    errors, wrong = dict[str, float](), ""
    for what, tensor in expected.items():
        form = FORM_OF.get(what.split()[0], what)
        gradient = form == "backward"
        if gradient and tensor.norm() <= MIN_NORM:
            continue
        error = difference(got[what], tensor)
        allowed = limits.get(form, tolerance)
        if low and gradient and not error <= allowed:
            usual = usual or trained(_by_torch(layer))
            allowed = max(allowed, min(TWICE * difference(usual[what], tensor), HIGHEST))
        errors[form] = max(errors.get(form, 0.0), error)
        if not wrong and not error <= allowed:  # NaN is wrong
            wrong = f"{form}: the {what} is off by {error:.1e}; {allowed:.0e} is allowed"
        if not wrong and form in ("forward", "step") and got[what].dtype != dtype:
            wrong = f"{form}: the {what} must be {dtype}; got {got[what].dtype}"
    return errors, wrong


def _by_torch(layer: Layer) -> Layer:
    """A copy that torch computes."""
    plain = copy.deepcopy(layer)
    choose_backend(plain, "torch")
    return plain
