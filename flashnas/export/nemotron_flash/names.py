"""The tensors of HybridLM under the names of the family: `gla`, `mamba` and `self_attn` for mixers, and
`ffn`."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.formats.pieces import Piece, named, operator_pieces, with_channels

NAMES = {
    "d": {**{part: f"gla.{part}_proj" for part in "qkvb"}, **{f"{part}_conv": f"gla.{part}_conv1d"
                                                              for part in "qkv"},
          "norm": "gla.o_norm", "out": "gla.o_proj"},
    "m2": {"in": "mamba.in_proj", "conv": "mamba.conv1d", "norm": "mamba.norm", "out": "mamba.out_proj",
           **{part: f"mamba.{part}" for part in ("A_log", "D", "dt_bias")}},
    "a": {**{part: f"self_attn.{part}_proj" for part in "qkv"}, "out": "self_attn.o_proj",
          **{part: f"self_attn.{part}" for part in ("q_norm", "k_norm")}},
    "f": {part: f"ffn.{part}_proj" for part in ("gate", "up", "down")},
}


def pieces(architecture: Architecture) -> list[Piece]:
    """Every tensor of an architecture that the family can hold."""
    tensors = [Piece("model.embed_tokens.weight", "embedding.weight"),
             Piece("model.final_layernorm.weight", "final_norm.weight")]
    if architecture.meta_tokens:
        tensors.append(Piece("model.memory_tokens", "meta_tokens"))
    if not architecture.tied:
        tensors.append(Piece("lm_head.weight", "head.weight"))
    for n, spec in enumerate(architecture.canonical().operators):
        layer = f"model.layers.{n}."
        norm = "pre_ffn_layernorm" if spec.kind == "f" else "input_layernorm"
        tensors.append(Piece(f"{layer}{norm}.weight", f"layers.{n}.norm.weight"))
        tensors += [with_channels(piece, getattr(spec, "conv_size", 0)) for piece in named(
            operator_pieces(spec, architecture.hidden), NAMES[spec.kind], layer=layer, source=f"layers.{n}")]
    return tensors
