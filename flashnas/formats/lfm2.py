"""LFM2, as transformers and llama.cpp read it: what it can hold, its config.json, and its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashnas.architecture import Architecture
from flashnas.formats.fitting import Demands, Format
from flashnas.formats.pieces import Piece, network_pieces
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.spec import NORM_EPS

CONTEXT_TOKENS = 32768  # as of nemotron_h.py
NAMES = {
    "conv": {"in_proj": "conv.in_proj", "conv": "conv.conv", "out_proj": "conv.out_proj"},
    "a": {
        **{part: f"self_attn.{part}_proj" for part in "qkv"},
        "out_proj": "self_attn.out_proj",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
    },
    "f": {"gate": "feed_forward.w1", "up": "feed_forward.w3", "out_proj": "feed_forward.w2"},
}

FORMAT = Format(
    "LFM2",
    {
        "conv": Demands(shared=("conv_size",)),
        "a": Demands(
            fixed={
                "qk_norm": True,
                "qkv_bias": False,
                "out_bias": False,
                "out_gate": False,
                "rope_share": 1.0,
                "rope_factor": 1.0,
            },
            shared=("heads", "kv_heads", "head_dim", "rope_theta"),
            full_width=True,
        ),
        "f": Demands(fixed={"relu2": False, "bias": False}, shared=("intermediate",)),
    },
    needs=("conv", "a"),
    pairs=True,
    max_meta_tokens=0,
    programs=("transformers",),
    export="lfm2",
)


def configuration(
    architecture: Architecture, ids: Mapping[str, int | None], dtype: str
) -> dict[str, Any]:
    """The keys of config.json of an architecture that FORMAT holds; `block_dim` and `conv_dim` are
    for vLLM.
    """
    operators, hidden = architecture.canonical().operators, architecture.hidden
    convolution = next(spec for spec in operators if isinstance(spec, GatedConvolution))
    attention = next(spec for spec in operators if isinstance(spec, Attention))
    feed_forward = next(spec for spec in operators if isinstance(spec, FeedForward))
    return {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "torch_dtype": dtype,
        "vocab_size": architecture.vocab,
        "hidden_size": hidden,
        "tie_word_embeddings": architecture.tied,
        "num_hidden_layers": len(operators) // 2,
        "layer_types": [
            "full_attention" if isinstance(spec, Attention) else "conv" for spec in operators[::2]
        ],
        "norm_eps": NORM_EPS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_theta},
        "conv_L_cache": convolution.conv_size,
        "conv_bias": False,
        "block_dim": hidden,
        "conv_dim": hidden,
        "intermediate_size": feed_forward.intermediate,
        "block_auto_adjust_ff_dim": False,
        **ids,
    }


def model_pieces(architecture: Architecture, eps: float | None = None) -> list[Piece]:
    """The tensors of a network that FORMAT holds, under the names of released checkpoints. eps: as
    `network_pieces` takes it."""

    def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
        layer = f"model.layers.{n // 2}."
        return layer, layer + ("operator_norm" if spec.mixes_tokens else "ffn_norm")

    top = "model.embed_tokens", "model.embedding_norm", "lm_head"
    return network_pieces(architecture.canonical(), top, NAMES, place, eps=eps)
