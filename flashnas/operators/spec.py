"""What every operator states about itself without torch: its parameters and the kernels that it
launches, from which size, FLOPs and cache follow.

Counting rules, used everywhere:
- parameters include the pre-norm weight of the operator;
- a multiply-add is 2 FLOPs; norms, activations and other pointwise work are not counted; recurrent
  operators are counted in their recurrent form;
- cache bytes are per sequence: key/value caches and convolution states in the model's dtype,
  recurrent states in float32.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Self

from flashnas.base.errors import OperatorError
from flashnas.base.text import has_no
from flashnas.operators.kernel import KernelCall, Phase

# smallest head of a scaled-down operator by default: a state of 8 x 8 would hold too little
PROXY_HEAD_DIM = 16


def scaled_dim(dim: int, factor: int, least_dim: int = PROXY_HEAD_DIM) -> int:
    """A head or state size shrunk by `factor`, but not below `least_dim` (nor above itself)."""
    return min(dim, max(least_dim, dim // factor))


def scaled_head_dim(dim: int, factor: int, least_dim: int, size: int) -> int:
    """As `scaled_dim`, for heads that must divide `size`: of its divisors the one nearest to that
    in ratio.
    """
    wanted = scaled_dim(dim, factor, least_dim)
    return min(
        (d for d in range(1, size + 1) if size % d == 0),
        key=lambda d: (abs(math.log(d / wanted)), -d),
    )


def largest_divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`; 1 if `most` is smaller."""
    small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    return max((d for d in (*small, *(size // d for d in small)) if d <= most), default=1)


# -- what a spec states ------------------------------------------------------------------------------


class Role(Enum):
    """What a parameter is for; weight decay, weight norm, learning rates and the start read it."""

    READS = "a matrix that reads the residual stream, [.., features, hidden]"
    WRITES = "a matrix that writes into the residual stream, [.., hidden, features]"
    INNER = "a matrix between features of the operator"
    GATE = "a matrix that makes a gate, decay or rate of a few features; its size is part of what it computes"
    GATE_READS = "a matrix that makes the few features behind a gate of the residual stream"
    ROUTER = "a matrix that scores experts"
    FILTER = "taps [.., taps] of a short convolution, the last for the current token, or its bias [channels]"
    DECAY = "decay rates of a recurrence"
    NORM = "the weight of a norm"
    BIAS = "an offset"
    VECTOR = "one factor per channel or head"
    TOKENS = "one vector per token: embedding, head, meta tokens"


# roles that learn at a rate of their own, `m2.conv`
OWN_RATES = {Role.FILTER: "conv", Role.ROUTER: "router"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter of a layer.

    Args:
        name: in the state dict of the layer, such as `in_proj.weight`.
        shape: as torch stores it; of a matrix [outputs, inputs].
        role: what it is for.
        parts: names and numbers of consecutive rows that have a meaning of their own, such as q, k
            and v; many file formats have a tensor for each. Empty: the tensor is one part.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it is the weight of a product, which a file may keep in a type of few bits."""
        return len(self.shape) > 1 and self.role not in (Role.FILTER, Role.DECAY)

    def rows(self, *parts: str) -> tuple[int, ...]:
        """The rows of these parts; without names those of all parts."""
        sizes = dict(self.parts)
        return tuple(sizes[part] for part in parts or sizes)

    def places(self) -> dict[str, slice]:
        """Where the rows of each part are."""
        ends = itertools.accumulate(self.rows())
        return {
            name: slice(end - count, end)
            for (name, count), end in zip(self.parts, ends, strict=True)
        }


def linear(
    name: str, rows: int | Mapping[str, int], columns: int, role: Role, bias: bool = False
) -> tuple[TensorSpec, ...]:
    """The weight of a projection, and its bias.

    Args:
        name: of the module.
        rows: outputs, or name -> outputs for each part of them.
        columns: inputs.
        role: of the weight.
    """
    parts = () if isinstance(rows, int) else tuple(rows.items())
    count = rows if isinstance(rows, int) else sum(rows.values())
    weight = TensorSpec(f"{name}.weight", (count, columns), role, parts)
    return (weight, TensorSpec(f"{name}.bias", (count,), Role.BIAS, parts)) if bias else (weight,)


def convolution(channels: int, taps: int, bias: bool = False) -> tuple[TensorSpec, ...]:
    """The taps of the module `conv`, and its bias."""
    weight = TensorSpec("conv.weight", (channels, taps), Role.FILTER)
    return (weight, TensorSpec("conv.bias", (channels,), Role.FILTER)) if bias else (weight,)


def norm(name: str, size: int) -> TensorSpec:
    """The weight of a norm over the last dimension."""
    return TensorSpec(f"{name}.weight", (size,), Role.NORM)


NORM_EPS = 1e-6  # of the norms in front of operators, and inside most
OUTPUT_NORM_EPS = 1e-5  # inside others, as in fla, mamba_ssm and the Nemotron-Flash family
FULL_WIDTH = 2048  # a width of full-size networks, at which every operator fits with its defaults
MAX_VALUE = 10**12  # largest value of an option; keeps arithmetic on sizes finite


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """Base of all operators: `kind` is the short name in the notation; fields are the
    hyper-parameters.

    A field that is 0 where 0 makes no sense follows from the hidden size: `resolved(hidden)` fills
    it in.
    """

    kind: ClassVar[str]
    name: ClassVar[str]  # in full, as in `sliding_window_attention`
    label: ClassVar[str]  # for readers, as in `Gated DeltaNet`
    colour: ClassVar[str]  # in every plot, `#RRGGBB`; one that no other operator has
    family: ClassVar[str]  # for readers: operators of one kind of mathematics, as in `delta rule`
    layer: ClassVar[str] = ""  # "module:class" of the torch layer; empty: only estimated
    mixes_tokens: ClassVar[bool] = True
    # models of the operator alone are in use; else of it with feed-forward networks between
    stands_alone: ClassVar[bool] = False
    norm_eps: ClassVar[float] = NORM_EPS  # of the norms inside the layer
    minimums: ClassVar[dict[str, int]] = {}  # smallest allowed values that are not those of `least`
    # fields that hashes leave out at their default
    hash_optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            place = f"operator {self.kind!r}: {field.name}"
            expected: Any = type(field.default)
            if type(value) is not expected and not (expected is float and type(value) is int):
                raise OperatorError(f"{place} must be {expected.__name__}; got {value!r}")
            least = self.least(field)
            if expected is not bool and not least <= value <= MAX_VALUE:  # NaN is outside too
                limit = f"at least {least}" if value < least else f"at most {MAX_VALUE}"
                raise OperatorError(f"{place} must be {limit}; got {value!r}")
            if expected is float:
                object.__setattr__(self, field.name, float(value))

    @classmethod
    def least(cls, field: dataclasses.Field[Any]) -> int:
        """The smallest allowed value of a field: 1 of a whole number that is not 0 by default."""
        counts = type(field.default) is int and field.default > 0
        return cls.minimums.get(field.name, int(counts))

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """Build from a mapping of options; raises OperatorError naming an unknown one."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in options:
            if key not in fields:
                raise OperatorError(has_no(f"operator {cls.kind!r}", "option", key, fields))
        return cls(**options)

    def options(self) -> dict[str, int | float | bool]:
        """The fields that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def identity(self) -> tuple[tuple[str, int | float | bool], ...]:
        """The fields that enter the hash of an architecture, sorted by name."""
        options = self.options()
        return tuple(
            (name, value)
            for name, value in sorted(vars(self).items())
            if name in options or name not in self.hash_optional
        )

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def __str__(self) -> str:
        parts = ",".join(
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in self.options().items()
        )
        return f"{self.kind}({parts})" if parts else self.kind

    def resolved(self, hidden: int) -> Self:
        """The same operator with every field explicit for this hidden size; raises OperatorError if
        it cannot be."""
        return self

    def scaled(self, hidden: int, factor: int, least_dim: int = PROXY_HEAD_DIM) -> Self:
        """The operator for a network of width hidden / factor: explicit head and state sizes
        shrink, nothing else.

        Args:
            hidden: width of the full network.
            factor: by which it shrinks.
            least_dim: a head or state shrinks no further than to this size, 2 or more; fewer heads
                remain in its place.

        Specs that are equal when resolved at `hidden` give operators that are equal when resolved
        at hidden / factor.
        """
        return self if factor == 1 else self.narrowed(hidden, factor, least_dim)

    @property
    def window_tokens(self) -> int:
        """Tokens that its attention sees at most, itself included; 0: all."""
        return getattr(self, "window", 0)

    @classmethod
    def check_layer(cls) -> None:
        """Raise OperatorError for an operator that has no layer."""
        if not cls.layer:
            raise OperatorError(
                f"operator {cls.kind!r} has no layer: it can be estimated, but not trained, timed,"
                " exported or tested"
            )

    def narrowed(self, hidden: int, factor: int, least_dim: int) -> Self:
        """`scaled` by more than 1."""
        return self

    def tensors(self, hidden: int) -> Iterable[TensorSpec]:
        """The parameters of the layer, without the pre-norm."""
        raise NotImplementedError

    def kernels(self, hidden: int, phase: Phase) -> tuple[KernelCall, ...]:
        """The kernels launched for one call, in order; products take their sizes from `tensors`."""
        raise NotImplementedError

    # -- what follows from these two

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def named_tensors(self, hidden: int) -> dict[str, TensorSpec]:
        """`tensors` by name."""
        return {tensor.name: tensor for tensor in self.tensors(hidden)}

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def params(self, hidden: int) -> int:
        """Parameters of the operator with its pre-norm."""
        return hidden + sum(tensor.numbers for tensor in self.named_tensors(hidden).values())

    def active_params(self, hidden: int) -> int:
        """Parameters that one token uses."""
        return self.params(hidden)

    def flops(self, hidden: int, context: float) -> float:
        """FLOPs for one token that sees `context` tokens, itself included."""
        return sum(call.kind.flops(call, context) for call in _kernels_of(self, hidden))

    def looks_back(self, hidden: int) -> bool:
        """Whether a decode step depends on the number of tokens before, as the columns of its
        kernels state."""
        return any("context" in call.kind.decode for call in _kernels_of(self, hidden))

    def cache_bytes(self, hidden: int, context: int, dtype_bytes: int = 2) -> int:
        """Bytes kept per sequence after `context` tokens."""
        return sum(
            call.kind.cache_bytes(call, context, dtype_bytes) for call in _kernels_of(self, hidden)
        )

    def _divided(self, hidden: int, by: int, what: str) -> int:
        if hidden % by:
            raise OperatorError(
                f"operator {self.kind!r}: {what} {by} must divide the hidden size; got {hidden}"
            )
        return hidden // by


@functools.lru_cache(maxsize=1 << 12)
def _kernels_of(spec: OperatorSpec, hidden: int) -> tuple[KernelCall, ...]:
    return spec.kernels(hidden, "decode")


def mean_context(tokens: int, window: int = 0) -> float:
    """Mean number of tokens seen by the tokens 1..`tokens` under a causal mask, at most `window`
    (0: no limit)."""
    if not window or tokens <= window:
        return (tokens + 1) / 2
    return (window * (window + 1) / 2 + (tokens - window) * window) / tokens
