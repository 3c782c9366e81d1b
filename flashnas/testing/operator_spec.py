"""The contract of what an operator's spec states without torch, and of the layer that it names.

A check fails by `require`. States of layers are trees of tensors: None, a tensor, a KeyValueCache,
or a (named) tuple of such.
"""

import re
from typing import Any

import torch
from torch import Tensor

from flashnas.architecture import parse_operators
from flashnas.base.errors import OperatorError
from flashnas.network.cache import mapped, state_bytes
from flashnas.operators import OPERATORS, KernelCall, KernelKind, OperatorSpec
from flashnas.operators.kernel import Load
from flashnas.operators.kernel_kinds import KERNEL_KINDS
from flashnas.operators.layer import Layer, build_layer
from flashnas.operators.parts import RMSNorm
from flashnas.operators.spec import FULL_WIDTH, Role


def require(condition: object, message: str) -> None:
    """Raise AssertionError with the message, one line, unless the condition holds; also under
    `python -O`.
    """
    if not condition:
        raise AssertionError(message)


def state_tensors(state: Any, *, stored: bool = False) -> list[Tensor]:
    """The tensors of a state. stored: as they are stored; else in an order that does not depend on
    how the state came about. Raises AssertionError for a state of another kind.
    """
    tensors: list[Tensor] = []

    def collect(part: Any) -> None:
        if isinstance(part, Tensor):
            tensors.append(part)
        else:
            tensors.extend((part.keys_BGTK, part.values_BGTK) if stored else part.in_order())

    try:
        mapped(state, collect)
    except OperatorError as error:
        raise AssertionError(str(error)) from None
    return tensors


FACTORS = (1, 2, 8, 16)
MIN_DIMS = (2, 64)  # sizes that heads and states keep, apart from the default


def check_names(spec: OperatorSpec) -> None:
    """The short name is registered for this class, and the notation reads back."""
    place = f"operator {spec.kind!r}"
    for name, pattern, rule in (
        ("kind", r"[a-z][a-z0-9]*", "a lower-case word such as gd"),
        ("name", r"[a-z][a-z0-9_]*", "lower-case words such as gated_delta_net"),
        ("label", r"\S.*", "a name for readers such as Gated DeltaNet"),
        ("family", r"\S.*", "a group for readers such as delta rule"),
        ("colour", r"#[0-9A-F]{6}", "a colour such as #56B4E9"),
    ):
        value = getattr(spec, name, None)
        require(
            isinstance(value, str) and re.fullmatch(pattern, value),
            f"{place}: {name} must be {rule}; got {value!r}",
        )
        taken = {getattr(other, name): kind for kind, other in OPERATORS.items()}.get(value)
        require(
            name == "family" or taken in (None, spec.kind),
            f"{place}: {name} {value!r} is that of operator {taken}",
        )
    # a dataclass without a docstring gets its signature as one
    signature = f"{type(spec).__name__}("
    require(
        not (type(spec).__doc__ or signature).startswith(signature),
        f"{place}: the spec needs a docstring",
    )
    if spec.kind in OPERATORS:
        require(
            OPERATORS[spec.kind] is type(spec),
            f"{place}: the registry has another class of that kind, {OPERATORS[spec.kind]}",
        )
        require(parse_operators(str(spec)) == (spec,), f"{place}: {spec} must parse to itself")


def check_resolution(spec: OperatorSpec, hidden: int) -> None:
    """`resolved` is a fixed point that builds the same network."""
    full = spec.resolved(hidden)
    require(
        full.resolved(hidden) == full,
        f"operator {spec}: resolved({hidden}) must be its own resolved form",
    )
    figures = [
        (form.params(hidden), form.cache_bytes(hidden, 100), form.kernels(hidden, "decode"))
        for form in (spec, full)
    ]
    for what, one, other in zip(("params", "cache_bytes", "kernels"), *figures, strict=True):
        require(
            one == other,
            f"operator {spec}: {what} must equal that of its resolved form {full}; got {one} and"
            f" {other}",
        )


def check_scaling(spec: OperatorSpec) -> None:
    """The scaled operator fits the narrower network, whether its options are written or follow from
    the width."""
    last, full = None, spec.resolved(FULL_WIDTH)
    for factor in FACTORS:
        sizes, width = [], FULL_WIDTH // factor
        for least_dim in ((), *((size,) for size in MIN_DIMS)):
            arguments = FULL_WIDTH, factor, *least_dim
            scaled = f"scaled({', '.join(map(str, arguments))})"
            try:
                own, other = (form.scaled(*arguments).resolved(width) for form in (spec, full))
            except OperatorError as error:
                raise AssertionError(
                    f"operator {spec}: {scaled} must fit the width {width}: {error}"
                ) from error
            require(
                own == other,
                f"operator {spec}: {scaled} must be that of its resolved form {full}; got {own} and"
                f" {other}",
            )
            sizes.append(own.params(width))
        require(
            last is None or sizes[0] < last,
            f"operator {spec}: a narrower network must have fewer"
            f" parameters; got {sizes[0]} at the factor {factor}",
        )
        last = sizes[0]


def check_kernels(spec: OperatorSpec, hidden: int) -> None:
    """Both phases launch the same kernels of registered kinds, whose products have the matrices of
    the layer."""
    prefill, decode = (spec.kernels(hidden, phase) for phase in ("prefill", "decode"))
    for call in (*prefill, *decode):
        check_kernel(call, f"operator {spec}: kernel {call.label!r}")
    stated = [
        [(call.label, call.kind, call.shape) for call in calls] for calls in (prefill, decode)
    ]
    require(
        stated[0] == stated[1],
        f"operator {spec}: prefill and decode must launch kernels of the same labels, kinds and"
        " shapes",
    )
    weights = sum(call.kind.weights(call) for call in decode if call.kind.weights)
    matrices = sum(tensor.numbers for tensor in spec.tensors(hidden) if tensor.is_matrix)
    require(
        weights == matrices,
        f"operator {spec}: its products have {weights} weights, its tensors {matrices}",
    )


def check_kernel(call: KernelCall, place: str) -> None:
    """The kind of a kernel is registered, and the call states its sizes."""
    kind = call.kind
    require(
        isinstance(kind, KernelKind) and KERNEL_KINDS.get(kind.name) is kind,
        f"{place} has the kind {kind!r}, which"
        " is not registered; add an entry point of that name in the group flashnas.kernel_kinds",
    )
    require(
        bool(kind.rules or kind.columns("decode")),
        f"{place}: the kind {kind.name!r} has neither rows nor rules",
    )
    step, more = (kind.bytes_moved(call, Load("decode", batch, 1, 100.0), 2) for batch in (1, 2))
    require(
        0 < step < more,
        f"{place}: bytes_moved of the kind {kind.name!r} must be positive and grow with"
        f" the batch; got {step} for 1 sequence, {more} for 2",
    )
    require(
        kind.written(call) > 0,
        f"{place}: the kind {kind.name!r} must write values; got {kind.written(call)}",
    )


def check_tensors(spec: OperatorSpec, hidden: int) -> None:
    """The parameters that `tensors` states have shapes that fit their roles, and the layer has them, if
    there is one."""
    if spec.layer:
        try:
            layer = build_layer(spec, hidden)
        except OperatorError as error:
            raise AssertionError(str(error)) from error
        require(
            isinstance(layer, Layer),
            f"operator {spec}: {spec.layer} must be a Layer; got {type(layer)}",
        )
        for norm in layer.modules():
            require(
                not isinstance(norm, RMSNorm) or norm.eps == spec.norm_eps,
                f"operator {spec}: norm_eps must be that of the norms of its layer; got"
                f" {spec.norm_eps}",
            )
    tensors = spec.named_tensors(hidden)
    for name, tensor in tensors.items():
        vector = len(tensor.shape) == 1
        reads = tensor.shape[-1] == hidden
        fits = {
            Role.READS: reads,
            Role.GATE_READS: reads,
            Role.ROUTER: reads,
            Role.WRITES: vector or tensor.shape[-2] == hidden,
            Role.NORM: vector,
            Role.BIAS: vector,
            Role.VECTOR: vector,
        }.get(tensor.role, True)
        require(
            fits,
            f"operator {spec}: parameter {name!r} has the role {tensor.role.name}"
            f" ({tensor.role.value}); got the shape {tensor.shape}",
        )
        require(
            not tensor.parts or sum(tensor.rows()) == tensor.shape[0],
            f"operator {spec}: the parts of {name!r} must have its {tensor.shape[0]} rows;"
            f" got {sum(tensor.rows())}",
        )
    require(
        any(tensor.role is Role.WRITES for tensor in tensors.values()),
        f"operator {spec}: one parameter must have the role WRITES",
    )


@torch.no_grad()
def check_cache_bytes(spec: OperatorSpec, hidden: int) -> None:
    """`cache_bytes` counts the tensors of the state of one sequence."""
    for dtype, dtype_bytes in ((torch.bfloat16, 2), (torch.float32, 4)):
        layer = build_layer(spec, hidden).to(dtype)
        state = layer.init_state(1, dtype)
        for context in (0, 5, 70):
            if context:
                _, state = layer(torch.zeros(1, context, hidden, dtype=dtype))
            state_tensors(state)  # raises for a state that is not made of tensors
            stated = spec.cache_bytes(hidden, context, dtype_bytes)
            kept = state_bytes(state)
            require(
                stated == kept,
                f"operator {spec}: cache_bytes after {context} tokens in {dtype} must be"
                f" {kept}, as its state has; got {stated}",
            )
