"""An Architecture as the config.json of the family, and the names of its tensors. An error names the part
that the family lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.formats.fitting import Demands, Format
from flashnas.formats.pieces import Piece, network_pieces
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mamba2.spec import Mamba2

LAYER_TYPES = {"d": "deltanet", "m2": "m2", "a": "a", "f": "f"}


def _demands(kind: type[OperatorSpec], **fixed: Any) -> Demands:
    """One set of options holds for all operators of a kind; `fixed` have one value in the family's code."""
    return Demands(fixed=fixed, shared=tuple(each.name for each in dataclasses.fields(kind)))


FORMAT = Format("Nemotron-Flash", {
    "d": _demands(DeltaNet, conv_size=4),
    "m2": _demands(Mamba2, groups=1, bias=False, conv_bias=True, dt_min=0.0),
    "a": _demands(Attention, qkv_bias=False, out_bias=False, out_gate=False, rope_factor=1.0),
    "f": _demands(FeedForward, bias=False, relu2=False),
}, needs=())
FFN_MULTIPLE = 128  # the family cuts its feed-forward width down to a multiple of this
RELEASED = "nvidia/Nemotron-Flash-1B"  # has the code of the family
Spec = TypeVar("Spec", bound=OperatorSpec)


def family_config(architecture: Architecture, ids: dict[str, int | None], dtype: str) -> dict[str, Any]:
    """The keys of config.json; raises ExportError in one line for a part that the family lacks."""
    operators = architecture.canonical().operators
    if problems := FORMAT.problems(architecture.canonical()):
        raise _lacking(problems[0])
    hidden = architecture.hidden
    delta, mamba = _first(operators, DeltaNet), _first(operators, Mamba2) or Mamba2()
    attention, feed_forward = _first(operators, Attention), _first(operators, FeedForward)
    heads = delta.heads(hidden) if delta else max(1, hidden // 128)
    if attention:
        if delta and attention.heads != heads:
            raise _lacking(f"{heads} heads of 'd' beside {attention.heads} heads of 'a': one number holds"
                           f" for both")
        heads = attention.heads
    if attention and attention.rope_share not in (0, 1):
        raise _lacking(f"operator 'a' with rope_share={attention.rope_share}; it has 0 or 1")
    own_dim = attention is not None and attention.head_dim * heads != hidden
    if mamba.heads:
        raise _lacking(f"operator 'm2' with heads={mamba.heads}, {mamba.inner(hidden)} channels: a whole"
                       f" multiple of the hidden size {hidden} is needed")
    return {
        "architectures": ["NemotronFlashForCausalLM"], "model_type": "nemotron_flash",
        "auto_map": {"AutoConfig": f"{RELEASED}--configuration_nemotron_flash.NemotronFlashConfig",
                     "AutoModelForCausalLM": f"{RELEASED}--modeling_nemotron_flash.NemotronFlashForCausalLM"},
        "vocab_size": architecture.vocab, "hidden_size": hidden, "tie_word_embeddings": architecture.tied,
        "num_hidden_layers": len(operators), "layer_types": [LAYER_TYPES[spec.kind] for spec in operators],
        "num_memory_tokens": architecture.meta_tokens, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
        # 0: no feed-forward network inside the other layers
        "intermediate_size": 0, "ffn_expand_ratio": _expand_ratio(feed_forward, hidden),
        "hidden_act": "silu", "mlp_hidden_act": "silu",
        "num_attention_heads": heads, "num_key_value_heads": attention.kv_heads if attention else heads,
        "attn_hidden_size": -1, "kq_head_dim": attention.head_dim if attention and own_dim else -1,
        "v_head_dim": attention.head_dim if attention and own_dim else -1,
        "kq_norm": "rms" if attention and attention.qk_norm else "none",
        "rope": bool(attention and attention.rope_share), "rope_type": None,
        "rope_theta": attention.rope_theta if attention else 10000.0,
        "sliding_window": None, "global_attn_idx": None, "attention_dropout": 0.0,
        "max_position_embeddings": 262144, "orig_max_position_embeddings": None,
        "hybrid_decoder_layer": "mamba", "mamba_d_state": mamba.state, "mamba_d_conv": mamba.conv_size,
        "d_conv": mamba.conv_size, "mamba_expand": mamba.expand, "mamba2_headdim": mamba.head_dim,
        "mamba_conv_bias": True, "mamba_proj_bias": False,
        "use_cache": True, "torch_dtype": dtype, **ids,
    }


def _first(operators: Sequence[OperatorSpec], kind: type[Spec]) -> Spec | None:
    return next((spec for spec in operators if isinstance(spec, kind)), None)


def _expand_ratio(spec: FeedForward | None, hidden: int) -> float:
    if spec is None:
        return 3
    width = spec.intermediate
    ratio = width // hidden if width % hidden == 0 else width / hidden
    if width % FFN_MULTIPLE:
        raise _lacking(f"operator 'f' with intermediate={width}; it has multiples of {FFN_MULTIPLE}")
    if int(ratio * hidden) // FFN_MULTIPLE * FFN_MULTIPLE != width:  # the product was rounded down
        ratio = (width + 1) / hidden
    return ratio


def _lacking(what: str) -> ExportError:
    return ExportError(f"the Nemotron-Flash family lacks this: {what}")


# -- names of tensors ----------------------------------------------------------------------------------------

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
