"""Parts that several layers share: the layer contract, norms, short convolution, rotary positions, initial values."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.fused import convolution_silu, rms_norm
from flashnas.operators.roles import Declared, Role

NORM_EPS = 1e-6
OUTPUT_NORM_EPS = 1e-5  # of the norms inside `d`, `m2` and `h`, as in fla, mamba_ssm and the Nemotron-Flash family


class Layer(Declared):
    """Base of the operator layers: normalised input in, residual update out. See the package's docstring."""

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
        """The state of an empty sequence; `dtype` is the model's, recurrent states are kept in float32."""
        raise NotImplementedError

    def reference(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The ground truth in float64, one token after the other."""
        raise NotImplementedError

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token: (residual update, next state)."""
        raise NotImplementedError


class RecurrentState(NamedTuple):
    """What a recurrent layer remembers: the last inputs of its convolution and its matrix state."""

    conv_BTC: Tensor  # [B, conv_size - 1, channels], model dtype; no channels where there is no convolution
    matrix_BHKV: Tensor  # float32 (float64 in a float64 model)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent states, decays and norms: float32, or float64 when the model is float64."""
    return torch.promote_types(dtype, torch.float32)


def linear_reference(linear: nn.Linear | nn.Identity, x: Tensor) -> Tensor:
    """The projection of a float64 tensor, in float64."""
    if isinstance(linear, nn.Identity):  # a half of a larger operator puts out what it has
        return x
    y = x @ linear.weight.double().T
    return y if linear.bias is None else y + linear.bias.double()


# -- norms -------------------------------------------------------------------------------------------------------


def rms_normalise(x: Tensor, eps: float = NORM_EPS) -> Tensor:
    """x / rms(x) over the last dimension, computed in float32 at least, returned in x's dtype."""
    wide = x.to(state_dtype(x.dtype))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class RMSNorm(Declared):
    """Root-mean-square norm with a weight, arXiv 1910.07467."""

    roles: ClassVar = {"weight": Role.NORM}

    def __init__(self, size: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def l2_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(|x|^2 + eps) over the last dimension, as fla and Qwen3-Next normalise queries and keys."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def normalised_queries_and_keys(qk_THK: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`l2_normalise` of queries (times `scale`) and keys, which stand one after the other in the head dimension."""
    heads, dim = qk_THK.shape[-2] // 2, qk_THK.shape[-1]
    weight = _norm_weight(heads, dim, scale, state_dtype(qk_THK.dtype), qk_THK.device)
    q, k = rms_norm(qk_THK, weight, 1e-6 / dim).chunk(2, -2)
    return q, k


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table made while profiling must serve training too
def _norm_weight(heads: int, dim: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[2 x heads, 1]: what makes rms_norm an l2 norm, |x| = sqrt(dim) rms(x), times `scale` for the first half."""
    weight = torch.full((2 * heads, 1), dim ** -0.5, dtype=dtype, device=device)
    weight[:heads] *= scale
    return weight


# -- short convolution -------------------------------------------------------------------------------------------


def short_convolution(x_BTC: Tensor, state_BTC: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """silu of a causal depthwise convolution after the inputs in `state_BTC`: (y_BTC, the last inputs)."""
    history = torch.cat([state_BTC.to(x_BTC.dtype), x_BTC], 1)
    return convolution_silu(history, weight, bias), history[:, x_BTC.shape[1]:]


def short_convolution_step(x_BC: Tensor, state_BTC: Tensor, weight: Tensor,
                           bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token."""
    history = torch.cat([state_BTC.to(x_BC.dtype), x_BC.unsqueeze(1)], 1)
    y = (history * weight.T.to(x_BC.dtype)).sum(1)
    return F.silu(y if bias is None else y + bias.to(y.dtype)), history[:, 1:]


class ShortConvolution(Declared):
    """silu of a causal depthwise convolution over time, `size` taps; its state is the last size - 1 inputs."""

    roles: ClassVar = {"weight": Role.FILTER, "bias": Role.FILTER}

    def __init__(self, channels: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.core = Core("convolution", "convolution", (short_convolution, short_convolution_step), taps=size,
                         channels=channels)
        bound = 1 / math.sqrt(size)
        nn.init.uniform_(self.weight, -bound, bound)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        channels, size = self.weight.shape
        return torch.zeros(batch, size - 1, channels, dtype=dtype, device=device)

    def reference(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        weight, size = self.weight.double(), self.weight.shape[1]
        history = torch.cat([state_BTC, x_BTC], 1)
        y = torch.zeros_like(x_BTC)
        for tap in range(size):
            y = y + weight[:, tap] * history[:, tap:tap + x_BTC.shape[1]]
        y = y if self.bias is None else y + self.bias.double()
        return y * torch.sigmoid(y), history[:, history.shape[1] - size + 1:]

    def forward(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.core.of(x_BTC).forward(x_BTC, state_BTC, self.weight, self.bias)
        return y, state

    def step(self, x_BC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.core.of(x_BC).step(x_BC, state_BTC, self.weight, self.bias)
        return y, state


# -- rotary positions --------------------------------------------------------------------------------------------


class Rotary(NamedTuple):
    """Rotary positions of the first `dim` channels of a head. `factor`, `original`: as an Attention's rope options."""

    dim: int
    theta: float
    factor: float = 1.0
    original: int = 0

    def frequencies(self) -> Tensor:
        """Radians per token [dim / 2]. Llama 3.1 divides by `factor` what turns less than once in `original` tokens,
        leaves what turns 4 times or more, and goes over linearly between them."""
        frequency = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        turns = self.original * frequency / (2 * math.pi)
        kept = ((turns - 1) / 3).clamp(0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table made while profiling must serve training too
def _rotary_table(tokens: int, rotary: Rotary, dtype: torch.dtype, device: torch.device) -> Tensor:
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), rotary.frequencies())
    return torch.stack([angle.cos(), angle.sin()]).to(dtype).to(device)  # [2, T, dim / 2]


def rotate(x_BTHK: Tensor, first_position: int, rotary: Rotary) -> Tensor:
    """Rotary positions in the rotate-half form (Llama, Qwen3), from `first_position` on; arXiv 2104.09864."""
    if not rotary.dim:
        return x_BTHK
    tokens = x_BTHK.shape[1]
    length = 1 << max(8, (first_position + tokens - 1).bit_length())  # few distinct tables
    table = _rotary_table(length, rotary, state_dtype(x_BTHK.dtype), x_BTHK.device)
    cos, sin = table[:, first_position:first_position + tokens, None, :].to(x_BTHK.dtype)
    a, b = x_BTHK[..., :rotary.dim].chunk(2, dim=-1)
    rest = [x_BTHK[..., rotary.dim:]] if rotary.dim < x_BTHK.shape[3] else []
    return torch.cat([a * cos - b * sin, b * cos + a * sin, *rest], -1)


def rotate_one(x_BHK: Tensor, position: int, rotary: Rotary) -> Tensor:
    """`rotate` of one token."""
    if rotary.dim != x_BHK.shape[-1]:
        return rotate(x_BHK.unsqueeze(1), position, rotary).squeeze(1)
    table = _rotary_rows(1 << max(8, position.bit_length()), rotary, state_dtype(x_BHK.dtype), x_BHK.device)
    cos, sin = table[position].to(x_BHK.dtype).unbind(0)
    a, b = x_BHK.chunk(2, -1)
    return torch.addcmul(x_BHK * cos, torch.cat([b, a], -1), sin)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table made while profiling must serve training too
def _rotary_rows(tokens: int, rotary: Rotary, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[T, 2, dim]: cosines twice, and sines with the sign that they have in each half."""
    cos, sin = _rotary_table(tokens, rotary, dtype, device)
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)], 1)


# -- initial values ----------------------------------------------------------------------------------------------


def inverse_softplus_of_log_uniform(size: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """Bias b with softplus(b) log-uniform in [low, high]: time steps as Mamba2 and Gated DeltaNet start with."""
    step = torch.exp(torch.rand(size) * (math.log(high) - math.log(low)) + math.log(low))
    return step + torch.log(-torch.expm1(-step))


def log_of_uniform(size: int, low: float = 1.0, high: float = 16.0) -> Tensor:
    """log of decay rates drawn uniformly from [low, high]."""
    return torch.log(torch.empty(size).uniform_(low, high))
