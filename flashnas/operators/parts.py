"""Parts that several layers share: number types, initial values, norms, short convolutions, rotary
positions."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.spec import NORM_EPS

# -- number types, the projection of a reference, initial values -----------------------------------

TIME_STEPS, DECAY_RATES = (1e-3, 0.1), (1.0, 16.0)  # lowest and highest, at first
LOG2_E = 1 / math.log(2)  # torch takes powers of two in a third of the time of exp on a CPU
Build = TypeVar("Build", bound=Callable[..., Tensor])


def cached_table(build: Build, limit: int | None = 256) -> Build:
    """Keeps the last tensors, `limit` or all, that a function of sizes, dtypes and devices built.

    They are ordinary tensors even if the first call is made in inference mode: a table made while
    profiling must serve training too.
    """
    return functools.lru_cache(limit)(torch.inference_mode(False)(build))  # type: ignore[return-value]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent states, decays and norms: float32, or float64 when the model is
    float64.
    """
    return torch.promote_types(dtype, torch.float32)


def linear_reference(linear: nn.Linear, x: Tensor) -> Tensor:
    """The projection of a float64 tensor, in float64."""
    y = x @ linear.weight.double().T
    return y if linear.bias is None else y + linear.bias.double()


def inverse_softplus_of_log_uniform(size: int) -> Tensor:
    """Bias b with softplus(b) log-uniform in TIME_STEPS: time steps as Mamba2 and Gated DeltaNet
    start with.
    """
    low, high = map(math.log, TIME_STEPS)
    step = torch.exp(torch.rand(size) * (high - low) + low)
    return step + torch.log(-torch.expm1(-step))


def log_of_uniform(size: int) -> Tensor:
    """log of decay rates drawn uniformly from DECAY_RATES."""
    return torch.log(torch.empty(size).uniform_(*DECAY_RATES))


# -- root-mean-square and l2 norms -----------------------------------------------------------------

L2_EPS = 1e-6


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """torch's norm, in x's dtype also under autocast; it computes in float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, x.shape[-1:], None if weight is None else weight.to(x.dtype), eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight, arXiv 1910.07467."""

    def __init__(self, size: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def l2_norm(x: Tensor, eps: float = L2_EPS) -> Tensor:
    """x / sqrt(|x|^2 + eps) over the last dimension, as fla and Qwen3-Next normalise queries and
    keys, by torch's norm: |x| = sqrt(dim) rms(x); computed in float32 at least, in x's dtype.
    """
    dim = x.shape[-1]
    return rms_norm(x, None, eps / dim) * dim**-0.5


# -- the short causal convolution in front of most recurrences, and between the gates of `conv` ----


class ShortConvolution(nn.Module):
    """silu of a causal depthwise convolution over time, `size` taps; its state is the last size - 1
    inputs. Without `silu` the convolution alone."""

    def __init__(self, channels: int, size: int, bias: bool = False, silu: bool = True) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        bound = 1 / math.sqrt(size)
        nn.init.uniform_(self.weight, -bound, bound)

    def reference(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        weight, size = self.weight.double(), self.weight.shape[1]
        history = torch.cat([state_BTC, x_BTC], 1)
        y = torch.zeros_like(x_BTC)
        for tap in range(size):
            y = y + weight[:, tap] * history[:, tap : tap + x_BTC.shape[1]]
        y = y if self.bias is None else y + self.bias.double()
        return y * torch.sigmoid(y) if self.silu else y, history[:, history.shape[1] - size + 1 :]

    def forward(self, x_BTC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        history = torch.cat([state_BTC.to(x_BTC.dtype), x_BTC], 1)
        weight, bias = self._weights(x_BTC.dtype)
        y = F.conv1d(history.mT, weight.unsqueeze(1), bias, groups=len(weight)).mT
        return F.silu(y) if self.silu else y, history[:, x_BTC.shape[1] :]

    def step(self, x_BC: Tensor, state_BTC: Tensor) -> tuple[Tensor, Tensor]:
        history = torch.cat([state_BTC.to(x_BC.dtype), x_BC.unsqueeze(1)], 1)
        weight, bias = self._weights(x_BC.dtype)
        y = (history * weight.T).sum(1)
        y = y if bias is None else y + bias
        return F.silu(y) if self.silu else y, history[:, 1:]

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


# -- rotary positions, arXiv 2104.09864, also with the frequencies of Llama 3.1 --------------------


class Rotary(NamedTuple):
    """Rotary positions of the first `dim` channels of a head. `factor`, `original`: as an
    Attention's rope options."""

    dim: int
    theta: float
    factor: float = 1.0
    original: int = 0

    def frequencies(self) -> Tensor:
        """Radians per token [dim / 2]. Llama 3.1 divides by `factor` what turns less than once in
        `original` tokens, leaves what turns 4 times or more, and goes over linearly between
        them."""
        frequency = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        turns = self.original * frequency / (2 * math.pi)
        kept = ((turns - 1) / 3).clamp(0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


# all are kept: a CUDA graph reads them where they lie, and there are few
@functools.partial(cached_table, limit=None)
def _rotary_table(tokens: int, rotary: Rotary, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[2, T, dim]: cosines twice, and sines with the sign that they have in each half."""
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), rotary.frequencies())
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])
    return rows.to(dtype).to(device)


def rotate(x: Tensor, place: slice | int | Tensor, room: int, rotary: Rotary) -> Tensor:
    """Rotary positions in the rotate-half form (Llama, Qwen3); arXiv 2104.09864.

    Args:
        x: [B, T, H, K], or of one token [B, H, K].
        place: positions of the T tokens, or of the one token, which may lie on the device, [1].
        room: what all positions stay below.
    """
    if not rotary.dim:
        return x
    length = 1 << max(8, (room - 1).bit_length())  # few distinct tables
    table = _rotary_table(length, rotary, x.dtype, x.device)
    if isinstance(place, Tensor):
        cos, sin = table.index_select(1, place)[:, 0]
    else:
        cos, sin = table[:, place, None]
    turning, still = x.tensor_split([rotary.dim], -1)
    a, b = turning.chunk(2, -1)
    turned = torch.addcmul(turning * cos, torch.cat([b, a], -1), sin)
    return torch.cat([turned, still], -1) if still.shape[-1] else turned
