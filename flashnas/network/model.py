"""HybridLM: the language model that an Architecture describes, in torch.

Shapes: B batch, T time, D hidden, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, CandidateMemoryError
from flashnas.base.text import shown
from flashnas.network.cache import HybridCache
from flashnas.network.loss import linear_cross_entropy
from flashnas.operators import OperatorSpec
from flashnas.operators.backends.core import choose_backend, running
from flashnas.operators.layer import Layer, build_layer
from flashnas.operators.parts import RMSNorm
from flashnas.operators.spec import OWN_RATES, Role


@dataclass(frozen=True)
class ParameterUse:
    """What a parameter of a network is for, and the family in `Recipe.lr_multipliers` by which it
    learns.

    The family is the short name of the operator, that with `.conv` or `.router` for a short
    convolution or a router, `embedding` or `norm`.
    """

    role: Role
    family: str


def _streams_low(x: Tensor) -> bool:
    """Whether the residual stream has the dtype of autocast: on a GPU, where memory bounds all
    else.
    """
    return x.is_cuda and torch.is_autocast_enabled(x.device.type)


class Block(nn.Module):
    """An operator on the residual stream: (x, state) -> (x + mixer(norm(x)), next state)."""

    def __init__(self, spec: OperatorSpec, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden)
        self.mixer: Layer = build_layer(spec, hidden)

    def forward(self, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y_BTD, state = self.mixer(self.norm(x_BTD), state)
        return x_BTD + y_BTD, state

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        y_BD, state = self.mixer.step(self.norm(x_BD), state)
        return x_BD + y_BD, state


class HybridLM(nn.Module):
    """Embedding, pre-norm residual operators, final norm, head; has exactly `architecture.params`
    parameters.

    Meta tokens come before every sequence; they take positions but have no logits and no loss. Only
    memory limits the context.

    Args:
        architecture: what to build.
        backend: the libraries that compute the operators, one of operators.backends.BACKENDS.
            Raises OperatorError for a library that is not installed.

    Example:
        >>> import flashnas as fn, torch
        >>> network = fn.HybridLM(fn.Architecture.parse("32(vocab=100): d(head_dim=16) f"))
        >>> tokens_BT = torch.zeros(2, 8, dtype=torch.long)
        >>> network(tokens_BT).shape, network.loss(tokens_BT, tokens_BT).shape
        (torch.Size([2, 8, 100]), torch.Size([]))
    """

    def __init__(self, architecture: Architecture, backend: str = "auto") -> None:
        if not isinstance(architecture, Architecture):
            raise ArchitectureError(f"a network needs an Architecture; got {shown(architecture)}")
        super().__init__()
        self.architecture = architecture
        hidden, vocab = architecture.hidden, architecture.vocab
        meta = architecture.meta_tokens
        try:
            self.embedding = nn.Embedding(vocab, hidden)
            self.meta_tokens = nn.Parameter(torch.empty(meta, hidden)) if meta else None
            self.layers = nn.ModuleList(Block(spec, hidden) for spec in architecture.operators)
            self.final_norm = RMSNorm(hidden)
            self.head = nn.Linear(hidden, vocab, bias=False) if not architecture.tied else None
        except RuntimeError as error:  # the CPU's allocator has no error of its own
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" not in str(error):
                raise
            raise CandidateMemoryError(
                f"out of memory: the network has {architecture.params:,} parameters"
            ) from None
        self.choose_backend(backend)
        self.reset_weights()

    def choose_backend(self, backend: str) -> None:
        """Take another of operators.backends.BACKENDS; OperatorError as for a new network."""
        choose_backend(self, backend)
        self.backend = backend

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Draw the matrices: normal with std 1/sqrt(fan_in), output projections times 1/sqrt(2 x
        operators).
        """
        shrink = 1 / math.sqrt(2 * len(self.layers))
        uses = self.parameter_uses()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = 1 / math.sqrt(module.in_features)
                writes = uses[f"{name}.weight"].role is Role.WRITES
                nn.init.normal_(module.weight, std=std * shrink if writes else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for weight in (
            self.embedding.weight,
            self.meta_tokens,
            self.head.weight if self.head else None,
        ):
            if weight is not None:
                nn.init.normal_(weight, std=0.02)

    def parameter_uses(self) -> dict[str, ParameterUse]:
        """Role and family of every parameter, by the names of `named_parameters()`."""
        tokens = ParameterUse(Role.TOKENS, "embedding")
        uses = {"embedding.weight": tokens, "final_norm.weight": ParameterUse(Role.NORM, "norm")}
        if self.meta_tokens is not None:
            uses["meta_tokens"] = tokens
        if self.head is not None:
            uses["head.weight"] = tokens
        for n, spec in enumerate(self.architecture.operators):
            uses[f"layers.{n}.norm.weight"] = ParameterUse(Role.NORM, spec.kind)
            for name, tensor in spec.named_tensors(self.architecture.hidden).items():
                part = OWN_RATES.get(tensor.role)
                family = f"{spec.kind}.{part}" if part else spec.kind
                uses[f"layers.{n}.mixer.{name}"] = ParameterUse(tensor.role, family)
        return uses

    def backends(self) -> dict[str, str]:
        """What computes each kind of operator on the model's device, as {"d": "fla 0.6.0", ..}."""
        weight = self.embedding.weight
        kinds = (spec.kind for spec in self.architecture.operators)
        return running(zip(kinds, self.blocks, strict=True), weight.device.type, weight.dtype)

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    @property
    def head_weight(self) -> Tensor:
        """[V, D]; the embedding's when tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    # -- training ----------------------------------------------------------------------------------

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        return F.linear(self.hidden_states(tokens_BT), self.head_weight)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets that are not negative; NaN if all are.

        Negative targets, as -100, mark places without a prediction. Logits exist only a slice at a
        time.
        """
        x = self.hidden_states(tokens_BT).flatten(0, 1)
        return linear_cross_entropy(x, self.head_weight, targets_BT.flatten())

    def hidden_states(self, tokens_BT: Tensor) -> Tensor:
        """[B, T, D] after the final norm, before the head."""
        x, _ = self.run_layers(self.embed(tokens_BT), [None] * len(self.layers))
        return self.final_norm(x[:, self.architecture.meta_tokens :])

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """[B, meta + T, D]: the meta tokens, then the embedded tokens."""
        x = self.embedding(tokens_BT)
        if self.meta_tokens is not None:
            x = torch.cat([self.meta_tokens.expand(len(x), -1, -1), x], 1)
        return x.to(torch.get_autocast_dtype(x.device.type)) if _streams_low(x) else x

    def run_layers(self, x_BTD: Tensor, states: Any) -> tuple[Tensor, tuple[Any, ...]]:
        """All operators in their parallel form from `states` on (None: of empty sequences): (x_BTD,
        states after)."""
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            x_BTD, state = block(x_BTD, state)
            after.append(state)
        return x_BTD, tuple(after)

    # -- generation --------------------------------------------------------------------------------

    @torch.no_grad()
    def start_cache(self, batch: int) -> HybridCache:
        """The cache of an empty prompt: meta tokens read, nothing else."""
        weight = self.embedding.weight
        if self.meta_tokens is None:
            return tuple(
                block.mixer.init_state(batch, weight.dtype, weight.device) for block in self.blocks
            )
        # without states: a library may read a whole prompt only from its beginning
        # (backends/mamba_ssm.py)
        return self.run_layers(self.meta_tokens.expand(batch, -1, -1), [None] * len(self.layers))[1]

    @torch.no_grad()
    def prefill(
        self, tokens_BT: Tensor, cache: HybridCache | None = None
    ) -> tuple[Tensor, HybridCache]:
        """Read a prompt (or a further part of one): (logits [B, V] after its last token, cache)."""
        if tokens_BT.shape[1] == 0:
            raise ValueError(
                "prefill needs at least one token; use start_cache for an empty prompt"
            )
        if cache is None:
            x, states = self.run_layers(self.embed(tokens_BT), [None] * len(self.layers))
        else:
            x, states = self.run_layers(self.embedding(tokens_BT), cache)
        return self._next_logits(x[:, -1]), states

    @torch.no_grad()
    def decode_step(self, tokens_B: Tensor, cache: HybridCache) -> tuple[Tensor, HybridCache]:
        """Read one token per sequence: (logits [B, V] of the next, cache). With key/value caches at a
        `Position` no kernel depends on a number of the host: a CUDA graph can hold it."""
        x, states = self.embedding(tokens_B), []
        for block, state in zip(self.blocks, cache, strict=True):
            x, state = block.step(x, state)
            states.append(state)
        return self._next_logits(x), tuple(states)

    def _next_logits(self, x_BD: Tensor) -> Tensor:
        return F.linear(self.final_norm(x_BD), self.head_weight)

    @torch.no_grad()
    def generate(self, tokens_BT: Tensor, count: int, greedy: bool = True) -> Tensor:
        """The next `count` tokens [B, count] after a prompt of at least one token; greedy or drawn."""
        logits, cache = self.prefill(tokens_BT)
        generated: list[Tensor] = []
        for n in range(count):
            token = (
                logits.argmax(-1)
                if greedy
                else torch.multinomial(logits.float().softmax(-1), 1).squeeze(-1)
            )
            generated.append(token)
            if n + 1 < count:
                logits, cache = self.decode_step(token, cache)
        return torch.stack(generated, 1) if generated else tokens_BT[:, :0]
