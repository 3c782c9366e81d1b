"""The contract of the operators' torch layers, and the base of the recurrent ones.

Every layer maps the normalised input to the residual update and has three forms that agree:

- `reference(x_BTD, state)`: a plain loop over time in float64, the ground truth; read it first;
- `forward(x_BTD, state)`: parallel or chunked, for training and prefill; the returned state
  continues the sequence;
- `step(x_BD, state)`: one token; a state may be continued only once (caches are written in place).

Shape letters: B batch, T time, D hidden size, H heads, K key dim, V value dim, N chunks, C chunk
length or channels, G groups of heads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError
from flashnas.operators.backends.core import Core
from flashnas.operators.parts import RMSNorm, ShortConvolution, linear_reference, state_dtype
from flashnas.operators.spec import Role

if TYPE_CHECKING:
    from flashnas.operators.spec import OperatorSpec, TensorSpec

# a recurrence: (.., state_BHKV) -> (outputs, final state)
Rule = Callable[..., tuple[Tensor, Tensor]]
Apply = Callable[[nn.Linear, Tensor], Tensor]


def build_layer(spec: OperatorSpec, hidden: int) -> Layer:
    """The torch layer of that operator, without the pre-norm.

    Raises OperatorError if it has none, or if its parameters are not those that the specification
    states.
    """
    spec.check_layer()
    layer: Layer = resolve_name(spec.layer)(spec, hidden)
    built = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    stated = {name: tensor.shape for name, tensor in spec.named_tensors(hidden).items()}
    if different := sorted(built.items() ^ stated.items()):
        name = different[0][0]
        raise OperatorError(
            f"operator {spec}: the parameter {name!r} of its layer has the shape"
            f" {built.get(name)}; its tensors state {stated.get(name)}"
        )
    return layer


class Layer(nn.Module):
    """Base of the operator layers: normalised input in, residual update out.

    The sizes of modules and parameters follow from `tensors`, what the specification states.
    """

    def __init__(self, spec: OperatorSpec, hidden: int) -> None:
        super().__init__()
        self.kind = spec.kind
        self.tensors = spec.named_tensors(hidden)
        self.norm_eps = spec.norm_eps

    def tensor(self, name: str) -> TensorSpec:
        """What the specification states of a parameter; raises OperatorError if it does not."""
        if name not in self.tensors:
            raise OperatorError(
                f"operator {self.kind!r}: its layer builds the parameter {name!r}, which its"
                " tensors do not state"
            )
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        return self.tensor(name).shape

    def linear(self, name: str) -> nn.Linear:
        """A projection with the sizes of the tensors `name.weight` and `name.bias`."""
        rows, columns = self.shape(f"{name}.weight")
        return nn.Linear(columns, rows, bias=f"{name}.bias" in self.tensors)

    def convolution(self, silu: bool = True) -> ShortConvolution:
        """The short convolution with the tensors `conv.weight` and `conv.bias`."""
        channels, taps = self.shape("conv.weight")
        return ShortConvolution(channels, taps, "conv.bias" in self.tensors, silu)

    def norm_of(self, name: str) -> RMSNorm:
        """A norm with the tensor `name.weight`."""
        return RMSNorm(self.shape(f"{name}.weight")[0], self.norm_eps)

    @property
    def routes(self) -> bool:
        """Whether a router sends tokens to experts: those without tokens get no gradient, the host
        sorts the tokens, so that no CUDA graph can hold the layer, and in bfloat16 a token near a
        tie goes to others."""
        return any(tensor.role is Role.ROUTER for tensor in self.tensors.values())

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
        """The state of an empty sequence; `dtype` is the model's, recurrent states are kept in
        float32. Here: None, of a layer whose tokens do not mix.
        """
        return None

    def reference(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The ground truth in float64, one token after the other: (residual update [B, T, D], state
        after).
        """
        raise NotImplementedError

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token: (residual update [B, D], next state). Here: of a layer whose tokens do not
        mix."""
        return self.forward(x_BD)


class RecurrentState(NamedTuple):
    """What a recurrent layer remembers: the last inputs of its convolution and its matrix state."""

    # [B, conv_size - 1, channels], model dtype; no channels where there is no convolution
    conv_BTC: Tensor
    matrix_BHKV: Tensor  # float32 (float64 in a float64 model)


class RecurrentLayer(Layer):
    """A layer that remembers matrices [heads, key dim, value dim]: project, convolve, recur,
    project back.

    A subclass sets the attributes below and defines `project` and `recur`.
    """

    conv: ShortConvolution | None
    core: Core  # the recurrence
    plain: Rule  # the same token by token, as its formula says
    out_proj: nn.Linear
    state_sizes: tuple[int, int, int]  # heads, key dim, value dim
    takes_start: ClassVar[bool] = True  # else `recur` is given None in place of an empty matrix

    def project(self, x: Tensor, apply: Apply) -> Sequence[Tensor]:
        """What is linear in the input.

        Args:
            x: [.., D], with or without a time dimension.
            apply: (linear, x) -> their product: the module's own, or in float64 that of the
                reference.

        Returns:
            First what the convolution takes, then all other parts.
        """
        raise NotImplementedError

    def recur(
        self, parts: Sequence[Tensor], matrix_BHKV: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        """From projected parts to the input of `out_proj`.

        Args:
            parts: as `project` returned them, the first one after the convolution.
            matrix_BHKV: the state before.
            rule: `plain`, in float64, or the recurrence of `core`: for all tokens, or for one token
                without a time dimension.

        Returns:
            The input of `out_proj` [.., C] and the state after.
        """
        raise NotImplementedError

    @property
    def last_inputs(self) -> tuple[int, int]:
        """Tokens that the convolution remembers, and its channels."""
        if self.conv is None:
            return 0, 0
        channels, taps = self.conv.weight.shape
        return taps - 1, channels

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> RecurrentState:
        return RecurrentState(
            torch.zeros(batch, *self.last_inputs, dtype=dtype, device=device),
            torch.zeros(batch, *self.state_sizes, dtype=state_dtype(dtype), device=device),
        )

    def reference(
        self, x_BTD: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        x_BTD = x_BTD.double()
        conv_BTC, matrix_BHKV = state or self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device)
        mixed_BTC, *rest = self.project(x_BTD, linear_reference)
        if self.conv is not None:
            mixed_BTC, conv_BTC = self.conv.reference(mixed_BTC, conv_BTC.double())
        y_BTC, matrix_BHKV = self.recur((mixed_BTC, *rest), matrix_BHKV.double(), self.plain)
        return linear_reference(self.out_proj, y_BTC), RecurrentState(conv_BTC, matrix_BHKV)

    def forward(
        self, x_BTD: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        mixed_BTC, *rest = self.project(x_BTD, operator.call)
        dtype = mixed_BTC.dtype
        conv_BTC, matrix_BHKV = state or self.init_state(len(x_BTD), dtype, x_BTD.device)
        if self.conv is not None:
            mixed_BTC, conv_BTC = self.conv(mixed_BTC, conv_BTC)
        rule = self.core.of(mixed_BTC).forward
        start: Any = matrix_BHKV if state or self.takes_start else None
        y_BTC, matrix_BHKV = self.recur((mixed_BTC, *rest), start, rule)
        return self.out_proj(y_BTC.to(dtype)), RecurrentState(conv_BTC, matrix_BHKV)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        mixed_BC, *rest = self.project(x_BD, operator.call)
        dtype, (conv_BTC, matrix_BHKV) = mixed_BC.dtype, state
        if self.conv is not None:
            mixed_BC, conv_BTC = self.conv.step(mixed_BC, conv_BTC)
        y_BC, matrix_BHKV = self.recur((mixed_BC, *rest), matrix_BHKV, self.core.of(mixed_BC).step)
        return self.out_proj(y_BC.to(dtype)), RecurrentState(conv_BTC, matrix_BHKV)
