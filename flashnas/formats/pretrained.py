"""The names of tensors in pretrained models: folders of transformers and GGUF files.

A checkpoint may have another epsilon in its norms than HybridLM. A norm does not change when its
input and the root of its epsilon are scaled by the same number, so that the weights carry the
difference, and a network that is saved or exported needs no further setting.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from flashnas.architecture import Architecture
from flashnas.formats import lfm2
from flashnas.formats.gguf import pieces as gguf_pieces
from flashnas.formats.pieces import Piece, network_pieces, with_channels
from flashnas.operators import OperatorSpec
from flashnas.operators.spec import NORM_EPS


@dataclass(frozen=True)
class Naming:
    """The names of the tensors of a checkpoint.

    top: of the embedding, the final norm and the head. layer: in front of all names of a layer.
    norms: in front of the mixer and in front of the feed-forward network. operators: kind ->
    module or part -> name. eps: the key of the norms' epsilon in config.json. interleaved: as of
    `gguf_pieces.operator_pieces`; None: a folder of transformers.
    """

    top: tuple[str, str, str]
    layer: str
    norms: tuple[str, str]
    operators: Mapping[str, Mapping[str, str]]
    eps: str = "rms_norm_eps"
    interleaved: bool | None = None

    def pieces(self, architecture: Architecture, eps: float) -> list[Piece]:
        """Every tensor of a checkpoint whose norms have that epsilon."""
        scale = (eps / NORM_EPS) ** 0.5
        own = with_channels
        if self.interleaved is not None:
            own = functools.partial(gguf_pieces.operator_pieces, interleaved=self.interleaved)

        def parts(spec: OperatorSpec, hidden: int, names: Container[str]) -> list[Piece]:
            # of a norm over queries and keys, these are the input
            scaled = ("q.", "k.") if getattr(spec, "qk_norm", False) else ()
            return [
                replace(piece, scale=scale) if piece.name.startswith(scaled) else piece
                for piece in own(spec, hidden, names)
            ]

        def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
            layer = self.layer.format(n // 2)
            return layer, layer + self.norms[not spec.mixes_tokens]

        return network_pieces(
            architecture.canonical(), self.top, self.operators, place, scale=scale, parts=parts
        )


LLAMA = Naming(
    ("model.embed_tokens", "model.norm", "lm_head"),
    "model.layers.{}.",
    ("input_layernorm", "post_attention_layernorm"),
    {
        "a": {
            **{part: f"self_attn.{part}_proj" for part in "qkv"},
            **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
            "out_proj": "self_attn.o_proj",
        },
        "f": {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "out_proj": "mlp.down_proj"},
    },
)
LFM2 = Naming(
    ("model.embed_tokens", "model.embedding_norm", "lm_head"),
    "model.layers.{}.",
    ("operator_norm", "ffn_norm"),
    lfm2.NAMES,
    "norm_eps",
)
GGUF = Naming(
    ("token_embd", "output_norm", "output"),
    "blk.{}.",
    ("attn_norm", "ffn_norm"),
    gguf_pieces.NAMES,
    interleaved=False,
)
# model_type -> names in a folder of transformers and in a GGUF file
NAMINGS: Mapping[str, tuple[Naming, Naming]] = {
    "llama": (LLAMA, replace(GGUF, interleaved=True)),
    "qwen2": (LLAMA, GGUF),
    "qwen3": (LLAMA, GGUF),
    "smollm3": (LLAMA, replace(GGUF, interleaved=True)),
    "lfm2": (LFM2, replace(GGUF, top=("token_embd", "token_embd_norm", "output"))),
}
