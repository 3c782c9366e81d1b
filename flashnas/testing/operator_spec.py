"""The contract of what an operator's spec states without torch, and of the layer that it names."""

from __future__ import annotations

import torch

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import OperatorError
from flashnas.latency.schema import KINDS
from flashnas.operators import OPERATORS, KernelCall, OperatorSpec
from flashnas.operators.layer import Layer, build_layer
from flashnas.testing.require import require
from flashnas.testing.states import state_bytes

WIDE = 2048      # hidden size of full-size architectures, at which defaults must fit
FACTORS = (1, 2, 8, 16)


def check_statements(spec: OperatorSpec, hidden: int) -> None:
    """Name, notation, hash, scaling, FLOPs and kernels are stated and agree with each other."""
    check_names(spec)
    check_resolution(spec, hidden)
    check_scaling(type(spec)())
    check_kernels(spec, hidden)


def check_names(spec: OperatorSpec) -> None:
    """The short name is registered for this class, and the notation reads back."""
    require(spec.kind.isidentifier() and spec.kind.islower(), f"operator {spec.kind!r}: kind must be a lower-case word")
    require(isinstance(spec.name, str) and spec.name.isidentifier(),
            f"operator {spec.kind!r}: name must be a lower-case identifier such as gated_delta_net; got {spec.name!r}")
    # a dataclass without a docstring gets its signature as one
    signature = f"{type(spec).__name__}("
    require(not (type(spec).__doc__ or signature).startswith(signature),
            f"operator {spec.kind!r}: the spec needs a docstring")
    if spec.kind in OPERATORS:
        require(OPERATORS[spec.kind] is type(spec), f"operator {spec.kind!r}: the registry has another class of that"
                                                    f" kind, {OPERATORS[spec.kind]}")
        require(parse_operators(str(spec)) == (spec,), f"operator {spec.kind!r}: {spec} must parse to itself")


def check_resolution(spec: OperatorSpec, hidden: int) -> None:
    """`resolved` is a fixed point that builds the same network, with the same hash."""
    full = spec.resolved(hidden)
    require(full.resolved(hidden) == full, f"operator {spec}: resolved({hidden}) must be its own resolved form")
    for what, *arguments in (("params",), ("cache_bytes", 100), ("kernels", "decode"), ("flops", 100)):
        one, other = (getattr(each, str(what))(hidden, *arguments) for each in (spec, full))
        require(one == other, f"operator {spec}: {what} must equal that of its resolved form {full}; got {one} and"
                              f" {other}")
    one, other = (Architecture(hidden=hidden, operators=(each,), vocab=512).hash for each in (spec, full))
    require(one == other, f"operator {spec}: the hash must equal that of its resolved form {full}")


def check_scaling(spec: OperatorSpec) -> None:
    """The scaled operator fits the narrower network; the factor 1 changes nothing."""
    require(spec.scaled(WIDE, 1) == spec, f"operator {spec}: scaled by 1 it must stay as it is; got"
                                          f" {spec.scaled(WIDE, 1)}")
    last = None
    for factor in FACTORS:
        try:
            small = spec.scaled(WIDE, factor).resolved(WIDE // factor)
        except OperatorError as error:
            raise AssertionError(f"operator {spec}: scaled({WIDE}, {factor}) must fit the width {WIDE // factor}:"
                                 f" {error}") from error
        size = small.params(WIDE // factor)
        require(last is None or size < last, f"operator {spec}: a narrower network must have fewer parameters; got"
                                             f" {size} at the factor {factor}")
        last = size


def check_kernels(spec: OperatorSpec, hidden: int) -> None:
    """Both phases launch the same kernels with known kinds; matrix products are counted in FLOPs and parameters."""
    prefill, decode = (spec.kernels(hidden, phase) for phase in ("prefill", "decode"))
    for call in (*prefill, *decode):
        require(isinstance(call, KernelCall), f"operator {spec}: kernels must be KernelCalls; got {call!r}")
        require(call.kind in KINDS or call.kind in ("pointwise", "experts"),
                f"operator {spec}: kernel {call.label!r} has the kind {call.kind!r}, which no latency table can hold")
        require(all(value >= 0 for _, value in call.shape), f"operator {spec}: kernel {call.label!r} has a size that is"
                                                           f" negative: {call.shape}")
    require([(call.label, call.shape) for call in prefill] == [(call.label, call.shape) for call in decode],
            f"operator {spec}: prefill and decode must launch kernels of the same labels and shapes")
    weights = sum(call["n"] * call["k"] for call in decode if call.kind == "gemm")
    require(weights <= spec.params(hidden), f"operator {spec}: the weights of its products are {weights}, more than its"
                                            f" parameters {spec.params(hidden)}")
    for context in (1, 100):
        require(spec.flops(hidden, context) >= 2 * weights, f"operator {spec}: FLOPs of one token are"
                f" {spec.flops(hidden, context)}, less than those of its products {2 * weights}")


def check_parameters(spec: OperatorSpec, hidden: int) -> None:
    """`params` counts the layer's parameters and the pre-norm."""
    layer = build_layer(spec, hidden)
    require(isinstance(layer, Layer), f"operator {spec}: {spec.layer} must be a Layer; got {type(layer)}")
    count = sum(parameter.numel() for parameter in layer.parameters()) + hidden
    require(count == spec.params(hidden), f"operator {spec}: params must be {count} (the layer's, and {hidden} of the"
                                          f" pre-norm); got {spec.params(hidden)}")


@torch.no_grad()
def check_cache_bytes(spec: OperatorSpec, hidden: int) -> None:
    """`cache_bytes` counts the tensors of the state of one sequence."""
    for dtype, dtype_bytes in ((torch.bfloat16, 2), (torch.float32, 4)):
        layer = build_layer(spec, hidden).to(dtype)
        state = layer.init_state(1, dtype)
        for context in (0, 5, 70):
            if context:
                _, state = layer(torch.zeros(1, context, hidden, dtype=dtype))
            stated, kept = spec.cache_bytes(hidden, context, dtype_bytes), state_bytes(state)
            require(stated == kept, f"operator {spec}: cache_bytes after {context} tokens in {dtype} must be {kept}, as"
                                    f" its state has; got {stated}")
