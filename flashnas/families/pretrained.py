"""The tensors of pretrained models: folders of transformers and GGUF files.

A checkpoint may have another epsilon in its norms than HybridLM. A norm does not change when its
input and the root of its epsilon are scaled by the same number, so that the weights carry the
difference, and a network that is saved or exported needs no further setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.base.text import one_of
from flashnas.families.family import all_families, families
from flashnas.families.gguf.families import FAMILIES
from flashnas.families.pieces import Piece
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention

LLAMA = families()["llama"].pieces
# model_type -> the tensors of a folder of transformers and of a GGUF file, by the epsilon of the norms
PIECES: Mapping[str, tuple[Callable[[Architecture, float | None], list[Piece]], ...]] = {
    "llama": (LLAMA, FAMILIES["llama"].pieces),
    "qwen2": (LLAMA, FAMILIES["qwen2"].pieces),
    "qwen3": (LLAMA, FAMILIES["qwen3"].pieces),
    "smollm3": (LLAMA, FAMILIES["smollm3"].pieces),
    "nemotron-nas": (all_families()["nemotron_nas"].pieces, FAMILIES["deci"].pieces),
    "lfm2": (families()["lfm2"].pieces, FAMILIES["lfm2"].pieces),
}


def without_windows(architecture: Architecture) -> Architecture:
    """The network with attention to all tokens, whose weights have the same names and shapes."""
    operators = (
        Attention(**{name: value for name, value in vars(spec).items() if name != "window"})
        if isinstance(spec, SlidingWindowAttention)
        else spec
        for spec in architecture.operators
    )
    return replace(architecture, operators=tuple(operators))


def check_kind(kind: str, place: str | Path) -> None:
    """Raise WeightsError for a model type that is not in PIECES."""
    if kind not in PIECES:
        raise WeightsError(
            one_of(f"{place}: the model type of weights that are read", kind, PIECES)
        )
