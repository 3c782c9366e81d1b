"""The tensors of pretrained models: folders of transformers and GGUF files.

A checkpoint may have another epsilon in its norms than HybridLM. A norm does not change when its
input and the root of its epsilon are scaled by the same number, so that the weights carry the
difference, and a network that is saved or exported needs no further setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.base.text import one_of
from flashnas.formats import lfm2
from flashnas.formats.gguf.families import FAMILIES
from flashnas.formats.pieces import Piece, network_pieces
from flashnas.operators import OperatorSpec

LLAMA_NAMES = {
    "a": {
        **{part: f"self_attn.{part}_proj" for part in "qkv"},
        **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
        "out_proj": "self_attn.o_proj",
    },
    "f": {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "out_proj": "mlp.down_proj"},
}


def llama_pieces(architecture: Architecture, eps: float) -> list[Piece]:
    """The tensors of a network under the names that transformers has for Llama and its like."""

    def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
        layer = f"model.layers.{n // 2}."
        norm = "input_layernorm" if spec.mixes_tokens else "post_attention_layernorm"
        return layer, layer + norm

    top = "model.embed_tokens", "model.norm", "lm_head"
    return network_pieces(architecture.canonical(), top, LLAMA_NAMES, place, eps=eps)


# model_type -> the tensors of a folder of transformers and of a GGUF file, by the epsilon of the norms
PIECES: Mapping[str, tuple[Callable[[Architecture, float], list[Piece]], ...]] = {
    "llama": (llama_pieces, FAMILIES["deci"].pieces),
    "qwen2": (llama_pieces, FAMILIES["qwen3"].pieces),
    "qwen3": (llama_pieces, FAMILIES["qwen3"].pieces),
    "smollm3": (llama_pieces, FAMILIES["deci"].pieces),
    "lfm2": (lfm2.model_pieces, FAMILIES["lfm2"].pieces),
}


def check_kind(kind: str, place: str | Path) -> None:
    """Raise WeightsError for a model type that is not in PIECES."""
    if kind not in PIECES:
        raise WeightsError(
            one_of(f"{place}: the model type of weights that are read", kind, PIECES)
        )
