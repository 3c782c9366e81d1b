"""The contract of an operator: three forms that agree, and a spec that states what the layer is.

The float64 reference is the ground truth. The other forms equal it in outputs, final states and
gradients, at lengths that do not divide a chunk and with neighbours that differ little, so that
keys are nearly parallel.
"""

from collections.abc import Iterable
from functools import partial

import torch

from flashnas.architecture import parse_operators
from flashnas.base.system import one_thread
from flashnas.operators import OPERATORS, OperatorSpec
from flashnas.testing.forms import (
    FORMS,
    HIDDEN,
    NOISE,
    TOLERANCES,
    assert_close,
    compare,
    make_inputs,
    make_layer,
    random_state,
    run_form,
)
from flashnas.testing.operator_spec import (
    check_cache_bytes,
    check_kernels,
    check_names,
    check_resolution,
    check_scaling,
    check_tensors,
    require,
)

LENGTHS = (1, 63, 64, 65, 1000)
ROUNDING = 1e-12  # float64: what a sum over another number of tokens may change


@one_thread()
def check_operator(
    operator: type[OperatorSpec] | OperatorSpec | str,
    *,
    hidden: int = HIDDEN,
    lengths: Iterable[int] = LENGTHS,
) -> None:
    """Check that an operator keeps its contract. Of one without a layer its specification is checked
    alone. It runs on one thread.

    Args:
        operator: a spec; its class or short name, which is checked with its defaults as a proxy
            scales them down to `hidden`; or its notation, such as "gsc(conv_size=4)".
        hidden: width at which its layer is built.

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
        check_forms(spec, ["forward", "steps"], tokens, hidden)
        check_forms(spec, ["forward"], tokens, hidden, torch.float32)
    check_forms(spec, ["parts"], 65, hidden)
    check_causality(spec, hidden)
    check_idle_parameters(spec, hidden)
    check_low_precision(spec, hidden)


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


# -- the rules -------------------------------------------------------------------------------------


def check_forms(
    spec: OperatorSpec,
    forms: Iterable[str],
    tokens: int,
    hidden: int = HIDDEN,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Some of FORMS equal the reference in outputs, final states and gradients, from a state that is
    not empty."""
    layer = make_layer(spec, hidden, dtype)
    x = make_inputs(tokens, hidden).to(dtype)
    expected = run_form(layer, layer.reference, x, random_state(layer, dtype))
    for form in forms:
        got = run_form(layer, partial(FORMS[form], layer), x, random_state(layer, dtype))
        place = f"operator {spec}, {form} against reference, {tokens} tokens, {dtype}"
        for what, tensor in expected.items():
            assert_close(got[what], tensor, TOLERANCES[dtype], f"{place}: {what}")


@torch.no_grad()
def check_causality(spec: OperatorSpec, hidden: int = HIDDEN, rounding: float = ROUNDING) -> None:
    """A token does not see later ones. rounding: relative change of earlier outputs that is
    allowed.
    """
    layer = make_layer(spec, hidden)
    x = make_inputs(65, hidden)
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


def check_idle_parameters(spec: OperatorSpec, hidden: int = HIDDEN) -> None:
    """Every parameter gets a gradient from a token, but for those of experts."""
    layer = make_layer(spec, hidden)
    layer(make_inputs(1, hidden, batch=1))[0].sum().backward()
    idle = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    require(
        layer.routes or not idle,
        f"operator {spec}: a parameter without a gradient needs one of the role ROUTER; got {idle}",
    )


def check_low_precision(spec: OperatorSpec, hidden: int = HIDDEN) -> None:
    """Training by autocast and decoding in bfloat16 are near the reference. Experts are left out:
    rounding sends tokens to others."""
    layer = make_layer(spec, hidden, torch.float32, NOISE)
    x = make_inputs(65, hidden).float()
    if not layer.routes:
        _, wrong = compare(layer, torch.bfloat16, x, TOLERANCES[torch.bfloat16])
        require(not wrong, f"operator {spec}, torch.bfloat16, {wrong}")
