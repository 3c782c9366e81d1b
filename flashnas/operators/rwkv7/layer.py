"""RWKV7 time mixing (`r7`), as fla's layer; arXiv 2503.14456. The recurrence is in dplr.py.

Values are not mixed with those of an earlier layer, because an operator sees only its input. This
is therefore the first layer of the paper, also in its initial values.
"""

import math
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.operators.backends.core import Core
from flashnas.operators.layer import Apply, RecurrentLayer, RecurrentState, Rule
from flashnas.operators.parts import l2_norm, linear_reference, state_dtype
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_step
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.operators.rwkv7.spec import MIXES, Rwkv7

Activation = Callable[[Tensor], Tensor]
STRONGEST_LOG_DECAY = -math.exp(-0.5)
KEY_NORM_EPS = 1e-6


class LowRank(nn.Module):
    """up f(down x) + bias; starts at the bias, as in the paper.

    The stored factors are hidden^(1/2) and rank times as large as those that act. A step of an
    optimizer that moves every entry equally (AdamW) then moves the result as little as that of
    other parameters.
    """

    def __init__(self, shape: tuple[int, ...], activation: Activation, bias: bool = True) -> None:
        super().__init__()
        rank, hidden = shape
        self.down = nn.Parameter(torch.zeros(rank, hidden))
        self.up = nn.Parameter(torch.empty(hidden, rank))
        self.bias = nn.Parameter(torch.zeros(hidden)) if bias else None
        self.activation = activation
        nn.init.orthogonal_(self.up, 0.1 * rank * max(1.0, rank / hidden) ** 0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """down [rank, D] and up [D, rank] as they act."""
        return self.down * self.down.shape[1] ** -0.5, self.up / self.up.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        down, up = (factor.to(x.dtype) for factor in self.factors())
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(self.activation(F.linear(x, down)), up, bias)


class Rwkv7Layer(RecurrentLayer):
    """Each token is mixed with the one before it in six ways: for r, k, v and for decay w, rate a
    and output gate.

    Log decay -exp(-0.5) sigmoid(w). The normalised key kk is taken out at rate a and k (1 + (a - 1)
    k_a) v^T is added; the norm per head is followed by the bonus (r k r_k summed over a head) v of
    the current token and by the gate.
    """

    def __init__(self, spec: Rwkv7, hidden: int) -> None:
        super().__init__(spec, hidden)
        self.hidden = hidden
        self.heads = spec.heads(hidden)
        self.head_dim = spec.head_dim
        self.mix = nn.Parameter(torch.empty(MIXES * hidden))
        self.in_proj = self.linear("in_proj")
        self.decay_gate = LowRank(self.shape("decay_gate.down"), torch.tanh)
        self.rate_gate = LowRank(self.shape("rate_gate.down"), nn.Identity())
        self.output_gate = LowRank(self.shape("output_gate.down"), torch.sigmoid, bias=False)
        self.k_k = nn.Parameter(torch.empty(hidden))
        self.k_a = nn.Parameter(torch.full((hidden,), 1.02))
        self.r_k = nn.Parameter(torch.full((hidden,), -0.04))
        self.norm = nn.GroupNorm(self.heads, hidden, eps=1e-5 * self.head_dim)
        self.out_proj = self.linear("out_proj")
        self.core = Core(
            "dplr",
            spec.name,
            (dplr_chunked, dplr_step),
            key_dim=self.head_dim,
            value_dim=self.head_dim,
        )
        self.state_sizes = self.heads, self.head_dim, self.head_dim
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        place = torch.arange(self.hidden) / self.hidden
        self.mix.copy_(torch.cat([1 - place**power for power in (0.2, 0.7, 0.7, 0.9, 0.9, 0.2)]))
        line = torch.linspace(-0.5, 0.5, self.hidden)
        zigzag = torch.linspace(-1, 1, self.head_dim).repeat(self.heads)
        zigzag = zigzag * zigzag.abs()
        self.k_k.copy_(0.71 - 0.1 * line)
        for gate, bias in (
            (self.decay_gate, 6 * line - 2.5 + 2.5 * zigzag),
            (self.rate_gate, 0.4 * line - 0.19 + 0.3 * zigzag),
        ):
            assert gate.bias is not None
            gate.bias.copy_(bias)

    @property
    def last_inputs(self) -> tuple[int, int]:
        return 1, self.hidden

    def reference(
        self, x_BTD: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        def plain(
            r: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor, state: Tensor
        ) -> tuple[Tensor, Tensor]:
            return token_by_token(r, k, v, g, state, a, b)

        return self._sequence(x_BTD.double(), state, plain, linear_reference)

    def forward(
        self, x_BTD: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        return self._sequence(x_BTD, state, self.core.of(x_BTD).forward, operator.call)

    def _sequence(
        self, x_BTD: Tensor, state: RecurrentState | None, rule: Rule, apply: Apply
    ) -> tuple[Tensor, RecurrentState]:
        state = state or self.init_state(len(x_BTD), x_BTD.dtype, x_BTD.device)
        before = torch.cat([state.conv_BTC.to(x_BTD.dtype), x_BTD[:, :-1]], 1)
        matrix = state.matrix_BHKV.to(state_dtype(x_BTD.dtype))
        y, matrix = self._run(x_BTD, before, matrix, rule, apply)
        return y, RecurrentState(x_BTD[:, -1:], matrix)

    def step(self, x_BD: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        before = state.conv_BTC[:, 0].to(x_BD.dtype)
        y, matrix = self._run(
            x_BD, before, state.matrix_BHKV, self.core.of(x_BD).step, operator.call
        )
        return y, RecurrentState(x_BD.unsqueeze(1), matrix)

    def _run(
        self, x: Tensor, before: Tensor, matrix: Tensor, rule: Rule, apply: Apply
    ) -> tuple[Tensor, Tensor]:
        """before: of the shape of x, the token in front of each."""
        mixes = self.mix.to(x.dtype).view(MIXES, *[1] * (x.ndim - 1), self.hidden)
        mixed = torch.addcmul(x, before - x, mixes)
        # r, k, v of the first three mixes by one batched product
        weight = self.in_proj.weight.to(x.dtype).view(3, self.hidden, self.hidden)
        rkv = mixed[:3].flatten(1, -2) @ weight.mT
        r, k, v = rkv.view(3, *x.shape).unbind()
        w = self.decay_gate(mixed[3])
        rate = self.rate_gate(mixed[4])
        gate = self.output_gate(mixed[5])
        with torch.autocast(x.device.type, enabled=False):
            dtype = matrix.dtype
            r, k, v, w, rate = (y.to(dtype) for y in (r, k, v, w, rate))
            g = STRONGEST_LOG_DECAY * torch.sigmoid(w)
            rate = torch.sigmoid(rate)
            kk = k * self.k_k.to(dtype)
            k = torch.addcmul(k, k * (rate - 1), self.k_a.to(dtype))
            r, k, v, g, kk, rate, r_k = (
                y.unflatten(-1, (self.heads, -1))
                for y in (r, k, v, g, kk, rate, self.r_k.to(dtype))
            )
            kk = l2_norm(kk, KEY_NORM_EPS)
            o, matrix = rule(r, k, v, -kk * (-g).exp(), kk * rate, g, matrix)
            o = F.layer_norm(o, [self.head_dim], eps=self.norm.eps).flatten(-2)
            o = torch.addcmul(self.norm.bias.to(dtype), o, self.norm.weight.to(dtype))
            o = o + ((r * k * r_k).sum(-1, keepdim=True) * v).flatten(-2)
        return apply(self.out_proj, o.to(gate.dtype) * gate), matrix
