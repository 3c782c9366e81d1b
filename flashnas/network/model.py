"""HybridLM: the language model that an Architecture describes, in torch.

Shapes: B batch, T time, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.architecture import Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.layer import KeyValueCache
from flashnas.operators.backends.core import choose_backend, running
from flashnas.operators.build import build_layer
from flashnas.operators.layer import Layer, RMSNorm
from flashnas.operators.projection import Transposed, forget_copies, linear_of_one
from flashnas.operators.roles import OWN_RATES, Role

LOG2_E = 1 / math.log(2)
LOGITS_PER_CHUNK = 1 << 21  # 8 MB of float32


@dataclass(frozen=True)
class ParameterUse:
    """What a parameter of a network is for, and the family in `Recipe.lr_multipliers` by which it learns.

    The family is the short name of the operator, that with `.conv` or `.router` for a short convolution or a router,
    `embedding` or `norm`.
    """

    role: Role
    family: str


@dataclass(frozen=True)
class HybridCache:
    """One state per operator; continue a cache only once (key/value caches are written in place)."""

    states: tuple[Any, ...]

    @property
    def kept_bytes(self) -> int:
        """Bytes of all caches and states, the whole batch; equals batch x Architecture.cache_bytes."""
        return sum(_state_bytes(state) for state in self.states)


def _state_bytes(state: Any) -> int:
    if isinstance(state, KeyValueCache):
        return state.kept_bytes
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(map(_state_bytes, state or ()))  # tensors of a recurrent state, or the states of several halves


class Block(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, spec: OperatorSpec, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden)
        self.mixer: Layer = build_layer(spec, hidden)

    def forward(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        update, state = self.mixer(self.norm(x_BTD), state)
        return x_BTD + update, state

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        update, state = self.mixer.step(self.norm(x_BD), state)
        return x_BD + update, state


class HybridLM(nn.Module):
    """Embedding, pre-norm residual operators, final norm, head; has exactly `architecture.params` parameters.

    Meta tokens stand in front of every sequence; they take positions but have no logits and no loss.
    Context is limited by memory only. backend: the libraries that compute the operators, one of
    operators.backend_names.BACKENDS; raises OperatorError for one that is not installed.
    """

    def __init__(self, architecture: Architecture, backend: str = "auto") -> None:
        super().__init__()
        self.architecture, self.backend = architecture, backend
        hidden, vocab = architecture.hidden, architecture.vocab
        self.embedding = nn.Embedding(vocab, hidden)
        meta = architecture.meta_tokens
        self.meta_tokens = nn.Parameter(torch.empty(meta, hidden)) if meta else None
        self.layers = nn.ModuleList(Block(spec, hidden) for spec in architecture.operators)
        self.final_norm = RMSNorm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False) if not architecture.tied else None
        choose_backend(self, backend)
        self._transposed_head = Transposed()
        self.reset_weights()

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Draw the matrices: normal with std 1/sqrt(fan_in), output projections times 1/sqrt(2 x operators)."""
        shrink, uses = 1 / math.sqrt(2 * len(self.layers)), self.parameter_uses()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = 1 / math.sqrt(module.in_features)
                writes = uses[f"{name}.weight"].role is Role.WRITES
                nn.init.normal_(module.weight, std=std * shrink if writes else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for weight in (self.embedding.weight, self.meta_tokens, self.head.weight if self.head else None):
            if weight is not None:
                nn.init.normal_(weight, std=0.02)

    def parameter_uses(self) -> dict[str, ParameterUse]:
        """Role and family of every parameter, by the names of `named_parameters()`.

        Raises OperatorError naming a parameter whose layer does not declare it.
        """
        tokens = ParameterUse(Role.TOKENS, "embedding")
        uses = {"embedding.weight": tokens, "final_norm.weight": ParameterUse(Role.NORM, "norm")}
        if self.meta_tokens is not None:
            uses["meta_tokens"] = tokens
        if self.head is not None:
            uses["head.weight"] = tokens
        for n, (spec, block) in enumerate(zip(self.architecture.operators, self.blocks, strict=True)):
            uses[f"layers.{n}.norm.weight"] = ParameterUse(Role.NORM, spec.kind)
            for name, role in block.mixer.parameter_roles().items():
                part = OWN_RATES.get(role)
                uses[f"layers.{n}.mixer.{name}"] = ParameterUse(role, f"{spec.kind}.{part}" if part else spec.kind)
        return uses

    def backends(self, dtype: torch.dtype | None = None) -> dict[str, str]:
        """What computes each kind of operator on the model's device, as {"d": "fla 0.6.0", "f": "torch", ..}, and short
        convolutions ("conv"). dtype: of activations where autocast sets it; the weights' by default."""
        weight = self.embedding.weight
        kinds = (spec.kind for spec in self.architecture.operators)
        return running(zip(kinds, self.blocks, strict=True), weight.device.type, dtype or weight.dtype)

    def train(self, mode: bool = True) -> HybridLM:
        """As nn.Module's; frees the copies of weights that decoding made."""
        self._transposed_head.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HybridLM:
        self._transposed_head.forget()
        return super()._apply(fn, recurse)

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    @property
    def head_weight(self) -> Tensor:
        """[V, D]; the embedding's when tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    # -- training --------------------------------------------------------------------------------------------------

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        return F.linear(self.hidden_states(tokens_BT), self.head_weight)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets that are not negative (as -100: no prediction counts there; NaN
        if none counts); logits exist only a slice at a time."""
        x = self.hidden_states(tokens_BT).flatten(0, 1)
        loss: Tensor = _LinearCrossEntropy.apply(x, self.head_weight, targets_BT.flatten())
        return loss

    def hidden_states(self, tokens_BT: Tensor) -> Tensor:
        """[B, T, D] after the final norm, before the head."""
        self._forget_copies()
        x, _ = self.run_layers(self.embed(tokens_BT), [None] * len(self.layers))
        return self.final_norm(x[:, self.architecture.meta_tokens:])

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """[B, meta + T, D]: the meta tokens, then the embedded tokens."""
        x = self.embedding(tokens_BT)
        if self.meta_tokens is None:
            return x
        return torch.cat([self.meta_tokens.expand(len(x), -1, -1), x], 1)

    def run_layers(self, x_BTD: Tensor, states: Any) -> tuple[Tensor, tuple[Any, ...]]:
        """All operators in their parallel form from `states` on (None: of empty sequences): (x_BTD, states after)."""
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            x_BTD, state = block(x_BTD, state)
            after.append(state)
        return x_BTD, tuple(after)

    # -- generation ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start_cache(self, batch: int) -> HybridCache:
        """The cache of an empty prompt: meta tokens read, nothing else."""
        self._forget_copies()
        weight = self.embedding.weight
        cache = HybridCache(tuple(block.mixer.init_state(batch, weight.dtype, weight.device) for block in self.blocks))
        if self.meta_tokens is None:
            return cache
        _, states = self.run_layers(self.meta_tokens.expand(batch, -1, -1), cache.states)
        return HybridCache(states)

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor, cache: HybridCache | None = None) -> tuple[Tensor, HybridCache]:
        """Read a prompt (or a further part of one): (logits [B, V] after its last token, cache)."""
        if tokens_BT.shape[1] == 0:
            raise ValueError("prefill needs at least one token; use start_cache for an empty prompt")
        self._forget_copies()
        if cache is None:
            x, states = self.run_layers(self.embed(tokens_BT), [None] * len(self.layers))
        else:
            x, states = self.run_layers(self.embedding(tokens_BT), cache.states)
        return self._next_logits(x[:, -1]), HybridCache(states)

    @torch.no_grad()
    def decode_step(self, tokens_B: Tensor, cache: HybridCache) -> tuple[Tensor, HybridCache]:
        """Read one token per sequence: (logits [B, V] of the next, cache)."""
        x, states = self.embedding(tokens_B), []
        for block, state in zip(self.blocks, cache.states, strict=True):
            x, state = block.step(x, state)
            states.append(state)
        return self._next_logits(x), HybridCache(tuple(states))

    def _forget_copies(self) -> None:
        """Free the copies of weights that decoding made, before a new sequence is read."""
        if not torch.compiler.is_compiling():
            self._transposed_head.forget()
            forget_copies(self)

    def _next_logits(self, x_BD: Tensor) -> Tensor:
        return linear_of_one(self.final_norm(x_BD), self.head_weight, None, self._transposed_head)

    @torch.no_grad()
    def generate(self, tokens_BT: Tensor, count: int, greedy: bool = True) -> Tensor:
        """The next `count` tokens [B, count] after a prompt of at least one token; greedy or drawn."""
        logits, cache = self.prefill(tokens_BT)
        generated = []
        for n in range(count):
            token = logits.argmax(-1) if greedy else torch.multinomial(logits.float().softmax(-1), 1).squeeze(-1)
            generated.append(token)
            if n + 1 < count:
                logits, cache = self.decode_step(token, cache)
        return torch.stack(generated, 1) if generated else tokens_BT[:, :0]


class _LinearCrossEntropy(torch.autograd.Function):
    """mean cross-entropy of x @ weight^T; gradients are taken slice by slice in the forward pass, so that the logits
    of a large vocabulary never exist at once. Rows with a negative target are divided by infinity: no extra pass."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        kind = x_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
        wide = torch.promote_types(dtype, torch.float32)
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        with torch.autocast(kind, enabled=False):
            x, weight = x_ND.to(dtype), weight_VD.to(dtype)
            total = torch.zeros((), dtype=wide, device=x.device)
            grad_x = torch.empty_like(x) if need_x else None
            grad_weight = torch.zeros(weight.shape, dtype=wide, device=x.device) if need_weight else None
            rows = max(1, LOGITS_PER_CHUNK // len(weight))
            counts_N = targets_N >= 0
            count = counts_N.sum()
            divisor_N1 = torch.where(counts_N, count, math.inf).to(wide).unsqueeze(1)
            targets_N = targets_N.clamp(min=0)
            for part in range(0, len(x), rows):
                now = slice(part, part + rows)
                logits = (x[now] @ weight.T).to(wide)
                target = targets_N[now].unsqueeze(1)
                highest, wanted = logits.amax(-1, keepdim=True), logits.gather(1, target)
                # exp by powers of two: torch's exp2 takes a third of the time of its exp on a CPU
                powers = torch.add(highest * -LOG2_E, logits, alpha=LOG2_E, out=logits).exp2_()
                sums = powers.sum(-1, keepdim=True)
                loss = highest + sums.log() - wanted
                total += loss.masked_fill_(~counts_N[now].unsqueeze(1), 0).sum()
                if grad_x is None and grad_weight is None:
                    continue
                share = divisor_N1[now].reciprocal()
                grad = powers.mul_(share / sums).scatter_add_(1, target, -share).to(dtype)
                if grad_x is not None:
                    torch.mm(grad, weight, out=grad_x[now])
                if grad_weight is not None:
                    grad_weight += grad.T @ x[now]
        ctx.save_for_backward(grad_x, grad_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        return (None if grad_x is None else (grad_x * grad).to(x_dtype),
                None if grad_weight is None else (grad_weight * grad).to(weight_dtype), None)
