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
from flashnas.exporting.transformers.cache import FlashnasCache, check_rows
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
    """A causal language model that computes HybridLM, on rows of equal length without padding."""

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
            attention_mask: 1 for all tokens [B, T], or None.
            position_ids: checked, for they follow from the tokens.
            cache: continue after the tokens that it has read.
            labels: token ids [B, T]; -100 for positions without a loss.
            logits_to_keep: the number of last tokens with logits, 0 for all, or their indices.
        """
        if use_cache and cache is None:
            cache = FlashnasCache()
        check_rows(input_ids, attention_mask, position_ids, cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._logits(input_ids, cache, kept)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)

    def _logits(
        self, tokens_BT: Tensor, cache: FlashnasCache | None, kept: slice | Tensor
    ) -> Tensor:
        """Logits [B, kept, V]; the cache goes on by the tokens."""
        model, meta = self.model, self.config.meta_tokens
        if cache is None:
            return F.linear(model.hidden_states(tokens_BT)[:, kept], model.head_weight)
        before = cache.states
        cache.rows = len(tokens_BT)
        cache.columns += tokens_BT.shape[1]
        if before is None:
            x_BTD, states = model.run_layers(model.embed(tokens_BT), [None] * len(model.layers))
            x_BTD = x_BTD[:, meta:]
        elif tokens_BT.shape[1] == 1 and not torch.is_grad_enabled():
            logits_BV, cache.states = model.decode_step(tokens_BT[:, 0], before)
            return logits_BV.unsqueeze(1)
        else:
            x_BTD, states = model.run_layers(model.embedding(tokens_BT), before)
        cache.states = states
        return F.linear(model.final_norm(x_BTD[:, kept]), model.head_weight)

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
