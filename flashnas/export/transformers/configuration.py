"""The configuration of an exported network: an Architecture under the keys that transformers expects."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from transformers import PreTrainedConfig

from flashnas.architecture import DEFAULT_VOCAB, Architecture


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
        """The configuration of an architecture; `keys`: further ones, such as the ids of special tokens."""
        return cls(vocab_size=architecture.vocab, hidden_size=architecture.hidden,
                   operators=[str(spec) for spec in architecture.operators], meta_tokens=architecture.meta_tokens,
                   tie_word_embeddings=architecture.tied, **keys)

    def to_architecture(self) -> Architecture:
        return Architecture.from_dict({"hidden": self.hidden_size, "vocab": self.vocab_size,
                                       "tied": self.tie_word_embeddings, "meta_tokens": self.meta_tokens,
                                       "operators": list(self.operators)})

    @property
    def num_hidden_layers(self) -> int:
        """Operators, each with its own norm and residual."""
        return len(self.operators)
