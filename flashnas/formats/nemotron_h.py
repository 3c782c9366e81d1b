"""Nemotron-H, as transformers and vLLM read it: what it can hold, its config.json, and its
names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flashnas.architecture import Architecture
from flashnas.formats.fitting import Demands, Format
from flashnas.formats.pieces import Piece, network_pieces, norm_eps
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mamba2.spec import Mamba2

CONTEXT_TOKENS = 32768  # what programs allocate at most by default
LETTERS = {"m2": "M", "a": "*", "f": "-"}
NAMES = {
    "m2": {"in_proj": "in_proj", "conv": "conv1d"},
    "a": {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out_proj": "o_proj"},
    "f": {"up": "up_proj", "out_proj": "down_proj"},
}

FORMAT = Format(
    "Nemotron-H",
    {
        "m2": Demands(
            fixed={"dt_min": 0.0},
            shared=(
                "heads",
                "expand",
                "head_dim",
                "state",
                "conv_size",
                "groups",
                "conv_bias",
                "bias",
            ),
        ),
        "a": Demands(
            fixed={
                "qk_norm": False,
                "qkv_bias": False,
                "out_bias": False,
                "out_gate": False,
                "rope_share": 0.0,
            },
            shared=("heads", "kv_heads", "head_dim"),
        ),
        "f": Demands(fixed={"relu2": True}, shared=("intermediate", "bias")),
    },
    needs=("a",),
    programs=("transformers", "vllm"),
    export="nemotron-h",
)


def configuration(
    architecture: Architecture, ids: Mapping[str, int | None], dtype: str
) -> dict[str, Any]:
    """The keys of config.json of an architecture that FORMAT holds. Readers take a network that has
    keys of experts for a mixture."""
    operators, hidden = architecture.canonical().operators, architecture.hidden
    mamba = next((spec for spec in operators if isinstance(spec, Mamba2)), Mamba2(head_dim=1))
    attention = next(spec for spec in operators if isinstance(spec, Attention))
    feed_forward = next(
        (spec for spec in operators if isinstance(spec, FeedForward)),
        FeedForward(intermediate=hidden),
    )
    return {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "torch_dtype": dtype,
        "vocab_size": architecture.vocab + architecture.meta_tokens,
        "hidden_size": hidden,
        "tie_word_embeddings": False,
        "num_hidden_layers": len(operators),
        "hybrid_override_pattern": "".join(LETTERS[spec.kind] for spec in operators),
        "layer_norm_epsilon": norm_eps(architecture),
        "max_position_embeddings": CONTEXT_TOKENS,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "intermediate_size": feed_forward.intermediate,
        "mlp_hidden_act": "relu2",
        "mlp_bias": feed_forward.bias,
        "residual_in_fp32": False,
        "rescale_prenorm_residual": False,
        "use_cache": True,
        "num_logits_to_keep": 1,
        **ids,
        "mamba_num_heads": mamba.head_count(hidden),
        "mamba_head_dim": mamba.head_dim,
        "n_groups": mamba.groups,
        "ssm_state_size": mamba.state,
        "conv_kernel": mamba.conv_size,
        "expand": mamba.expand,
        "use_conv_bias": mamba.conv_bias,
        "use_bias": mamba.bias,
        "mamba_proj_bias": mamba.bias,
        "mamba_hidden_act": "silu",
        # transformers clamps time steps to it in parallel, not step by step; its start draws from
        # its logarithm
        "time_step_min": 1e-30,
    }


def model_pieces(architecture: Architecture) -> list[Piece]:
    """The tensors of a network under the names of released checkpoints, which have a tied head,
    too.
    """
    top, layer = ("backbone.embeddings", "backbone.norm_f", "lm_head"), "backbone.layers."
    pieces = network_pieces(
        architecture.canonical(),
        top,
        NAMES,
        lambda n, _: (f"{layer}{n}.mixer.", f"{layer}{n}.norm"),
    )
    if architecture.tied:
        pieces.insert(2, replace(pieces[0], name="lm_head.weight"))
    return pieces
