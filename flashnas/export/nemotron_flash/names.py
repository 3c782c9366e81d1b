"""The tensors of HybridLM under the names of the family: `gla`, `mamba` and `self_attn` for mixers, and
`ffn`."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.formats.pieces import Piece, network_pieces
from flashnas.operators import OperatorSpec

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
    def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
        layer = f"model.layers.{n}."
        return layer, layer + ("pre_ffn_layernorm" if spec.kind == "f" else "input_layernorm")

    top = "model.embed_tokens", "model.final_layernorm", "lm_head"
    tensors = network_pieces(architecture.canonical(), top, NAMES, place)
    return [*tensors, *([Piece("model.memory_tokens", "meta_tokens")] if architecture.meta_tokens else [])]
