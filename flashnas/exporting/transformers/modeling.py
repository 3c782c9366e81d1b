"""HybridLM as transformers expects a causal language model. Names of weights are those of HybridLM
behind `model.`.

Shapes: B batch, T time, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from flashnas.architecture import DEFAULT_VOCAB, Architecture
from flashnas.exporting.transformers.cache import (
    FlashnasCache,
    Group,
    first_tokens,
    in_order,
    rows_by_start,
)
from flashnas.network.cache import HybridCache
from flashnas.network.model import HybridLM


class FlashnasConfig(PreTrainedConfig):
    """`operators` is the list of operators as in the notation, such as `a(heads=16,kv_heads=4)`.

    Raises ArchitectureError or OperatorError in one line for a network that cannot be built.
    """

    model_type = "flashnas"
    keys_to_ignore_at_inference = ("cache",)

    vocab_size: int = DEFAULT_VOCAB
    hidden_size: int = 2048
    operators: list[str] = field(default_factory=lambda: ["m2", "f"])
    meta_tokens: int = 0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.to_architecture()

    @classmethod
    def of(cls, architecture: Architecture, **keys: Any) -> FlashnasConfig:
        """The configuration of an architecture; `keys`: further ones, such as the ids of special
        tokens.
        """
        return cls(
            vocab_size=architecture.vocab,
            hidden_size=architecture.hidden,
            operators=[str(spec) for spec in architecture.operators],
            meta_tokens=architecture.meta_tokens,
            tie_word_embeddings=architecture.tied,
            **keys,
        )

    def to_architecture(self) -> Architecture:
        return Architecture.from_dict(
            {
                "hidden": self.hidden_size,
                "vocab": self.vocab_size,
                "tied": self.tie_word_embeddings,
                "meta_tokens": self.meta_tokens,
                "operators": list(self.operators),
            }
        )

    @property
    def num_hidden_layers(self) -> int:
        """Operators, each with its own norm and residual."""
        return len(self.operators)


class FlashnasForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model that computes HybridLM.

    With a cache, padding must be on the left. A row of a padded batch gives the result that it
    gives alone. Logits of padding are zero on the left and undefined on the right.
    """

    config_class = FlashnasConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"
    _no_split_modules = ["Block"]  # noqa: RUF012  # as transformers declares it
    _is_stateful = True  # a state cannot be rolled back, so assisted generation is refused
    config: FlashnasConfig
    model: HybridLM

    def __init__(self, config: FlashnasConfig) -> None:
        super().__init__(config)
        self.model = HybridLM(config.to_architecture())
        self.post_init()

    def init_weights(self) -> None:
        """Does nothing: HybridLM has drawn its weights."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draw the weights that a checkpoint lacks; transformers calls this after loading."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        lacking = [
            name
            for name, tensor in tensors.items()
            if not getattr(tensor, "_is_hf_initialized", False)
        ]
        if not lacking:
            return
        fresh = HybridLM(self.config.to_architecture())
        drawn = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        for name in lacking:
            tensors[name].copy_(drawn[name])

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.model.head = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: FlashnasCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits, and a loss and a cache if they are asked for.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for tokens, 0 for padding [B, T]; None: no padding.
            position_ids: checked against the attention mask, from which they follow.
            cache: continue after the tokens that it has read.
            labels: token ids [B, T]; -100 for positions without a loss.
            logits_to_keep: the number of last tokens with logits, 0 for all, or their indices.
        """
        if use_cache and cache is None:
            cache = FlashnasCache()
        starts = first_tokens(input_ids, attention_mask, position_ids, cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if cache is not None and cache.groups:
            logits = self._continued(input_ids, cache)[:, kept]
        else:
            hidden_BTD = self._read(input_ids, starts or [0] * len(input_ids), cache)
            logits = F.linear(hidden_BTD[:, kept], self.model.head_weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)

    def _read(self, tokens_BT: Tensor, starts: list[int], cache: FlashnasCache | None) -> Tensor:
        """Normalised outputs [B, T, D] of sequences from their first token on; fills the empty
        cache.
        """
        outputs = []
        groups = rows_by_start(starts)
        for start, rows in groups:
            tokens = tokens_BT if len(groups) == 1 and not start else tokens_BT[rows, start:]
            if cache is None:
                outputs.append(self.model.hidden_states(tokens))
                continue
            x_BTD, states = self.model.run_layers(
                self.model.embed(tokens), [None] * len(self.model.layers)
            )
            outputs.append(self.model.final_norm(x_BTD[:, self.config.meta_tokens :]))
            cache.groups.append(Group(rows, HybridCache(states)))
        if cache is not None:
            cache.columns = tokens_BT.shape[1]
        padded = [
            F.pad(output, (0, 0, start, 0))
            for (start, _), output in zip(groups, outputs, strict=True)
        ]
        return in_order(padded, [rows for _, rows in groups])

    def _continued(self, tokens_BT: Tensor, cache: FlashnasCache) -> Tensor:
        """Logits [B, T, V] of tokens that follow those of the cache."""
        outputs = []
        for group in cache.groups:
            tokens = tokens_BT if len(cache.groups) == 1 else tokens_BT[group.rows]
            if tokens.shape[1] == 1 and not torch.is_grad_enabled():
                logits_BV, group.states = self.model.decode_step(tokens[:, 0], group.states)
                outputs.append(logits_BV.unsqueeze(1))
                continue
            x_BTD, states = self.model.run_layers(self.model.embedding(tokens), group.states.states)
            outputs.append(F.linear(self.model.final_norm(x_BTD), self.model.head_weight))
            group.states = HybridCache(states)
        cache.columns += tokens_BT.shape[1]
        return in_order(outputs, [group.rows for group in cache.groups])

    def _prepare_cache_for_generation(  # the base class returns None too
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        """An empty FlashnasCache, unless the caller passed one."""
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                "a flashnas model keeps its own cache; cache_implementation must be left out;"
                f" got {generation_config.cache_implementation!r}"
            )
        if model_kwargs.get("cache") is not None:
            model_kwargs["cache"]._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs["cache"] = FlashnasCache()
