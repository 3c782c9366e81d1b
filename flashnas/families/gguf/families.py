"""The architectures of llama.cpp that flashnas writes: what each can hold, and the keys of a
network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flashnas.architecture import Architecture
from flashnas.families.family import CONTEXT_TOKENS, families, layers_of
from flashnas.families.fitting import Demands, Format, choose
from flashnas.families.gguf.pieces import NAMES, operator_pieces, rope_piece
from flashnas.families.pieces import Piece, network_pieces, norm_eps
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba2.spec import Mamba2
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts

if TYPE_CHECKING:
    from gguf import GGUFWriter

MAMBA2 = {"bias": False, "dt_min": 0.0}
MAMBA2_SHAPE = ("head_dim", "state", "conv_size", "groups")
ROTARY = ("head_dim", "rope_share", "rope_theta", "rope_factor", "rope_original")
LLAMA, QWEN, EXPERTS, LFM2 = (
    replace(families()[name].format, max_meta_tokens=1)
    for name in ("llama", "qwen3_5", "qwen3_moe", "lfm2")
)


@dataclass(frozen=True)
class GgufFamily:
    """An architecture of llama.cpp.

    format: the rules of its loader. second_norm: name of the norm of an FFN that belongs to the
    layer of the mixer before it; "": it is a layer. interleaved: see `operator_pieces`.
    output_norm: name of the norm in front of the head.
    """

    format: Format
    second_norm: str = "ffn_norm"
    interleaved: bool = False
    output_norm: str = "output_norm"

    def pieces(self, architecture: Architecture) -> list[Piece]:
        """Every tensor of a file."""
        architecture = architecture.canonical()
        layer_of = [n for n, layer in enumerate(self.layers(architecture)) for _ in layer]

        def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
            norm = "attn_norm" if spec.mixes_tokens else self.second_norm or "attn_norm"
            return f"blk.{layer_of[n]}.", f"blk.{layer_of[n]}.{norm}"

        attention = _first(architecture.operators, Attention)
        scaled = [rope_piece(attention)] if getattr(attention, "rope_original", 0) else []
        return scaled + network_pieces(
            architecture,
            ("token_embd", self.output_norm, "output"),
            NAMES,
            place,
            parts=partial(operator_pieces, interleaved=self.interleaved),
        )

    def layers(self, architecture: Architecture) -> list[list[OperatorSpec]]:
        """The operators of each layer, as `layers_of`."""
        return layers_of(architecture.canonical().operators, bool(self.second_norm))

    def write_keys(self, writer: GGUFWriter, architecture: Architecture) -> None:
        """All keys but those of the tokenizer."""
        hidden = architecture.hidden
        operators = architecture.canonical().operators
        layers = self.layers(architecture)
        first = [layer[0] for layer in layers]
        widths = [getattr(layer[-1], "intermediate", 0) for layer in layers]
        kv_heads = [getattr(spec, "kv_heads", 0) for spec in first]  # 0: without attention
        attention, delta, convolution, mamba = (
            _first(operators, of) for of in (Attention, GatedDeltaNet, GatedConvolution, Mamba2)
        )
        eps = norm_eps(architecture)
        writer.add_block_count(len(first))
        writer.add_context_length(CONTEXT_TOKENS)
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(widths)
        writer.add_key_length(attention.head_dim)
        writer.add_value_length(attention.head_dim)
        writer.add_rope_dimension_count(attention.rotary_dim or attention.head_dim)
        writer.add_rope_freq_base(attention.rope_theta)
        if attention.rope_factor > 1 and not attention.rope_original:  # else in `rope_piece`
            writer.add_rope_scaling_factor(attention.rope_factor)
        writer.add_layer_norm_rms_eps(eps)
        # llama.cpp takes a layer with 0 key heads for a recurrent one; query heads must not be 0 in
        # any layer beside Mamba2
        idle = attention.heads if mamba else 0
        heads = [spec.heads if isinstance(spec, Attention) else idle for spec in first]
        writer.add_head_count(attention.heads if delta or convolution else heads)
        writer.add_head_count_kv(attention.kv_heads if delta else kv_heads)
        if delta:
            writer.add_array(
                f"{self.format.name}.attention.recurrent_layers",
                [isinstance(spec, GatedDeltaNet) for spec in first],
            )
            # channel pairs that read each of three positions in turn; those of a text are equal
            thirds = [(attention.rotary_dim // 2 + 2 - n) // 3 for n in range(3)]
            writer.add_rope_dimension_sections([*thirds, 0])
            writer.add_ssm_conv_kernel(delta.conv_size)
            writer.add_ssm_state_size(delta.head_dim)
            writer.add_ssm_group_count(delta.resolved(hidden).k_heads)
            _, inner, heads = delta.sizes(hidden)
            writer.add_ssm_time_step_rank(heads)
            writer.add_ssm_inner_size(inner)
        if experts := _first(operators, MixtureOfExperts):
            writer.add_expert_count(experts.experts)
            writer.add_expert_used_count(experts.active)
            writer.add_expert_feed_forward_length(experts.intermediate)
            writer.add_expert_shared_feed_forward_length(experts.shared)
        if convolution:
            writer.add_shortconv_l_cache(convolution.conv_size)
        if mamba:
            writer.add_layer_norm_eps(eps)  # nemotron_h does not use it, but must have it
            writer.add_rope_scaling_finetuned(bool(attention.rotary_dim))
            writer.add_ssm_conv_kernel(mamba.conv_size)
            writer.add_ssm_state_size(mamba.state)
            writer.add_ssm_group_count(mamba.groups)
            writer.add_ssm_time_step_rank(mamba.head_count(hidden))
            writer.add_ssm_inner_size(mamba.inner(hidden))


def _transformer(name: str, interleaved: bool = True, **fixed: Any) -> GgufFamily:
    """Llama, but for these options of attention."""
    attention = LLAMA.demands["a"]
    attention = replace(attention, fixed={**attention.fixed, **fixed})
    form = replace(LLAMA, name=name, demands={**LLAMA.demands, "a": attention})
    return GgufFamily(form, interleaved=interleaved)


FAMILIES: Mapping[str, GgufFamily] = {
    family.format.name: family
    for family in (
        GgufFamily(
            Format(
                "granitehybrid",
                {
                    "m2": Demands(fixed={**MAMBA2, "heads": 0, "expand": 2}, shared=MAMBA2_SHAPE),
                    "a": Demands(
                        fixed={"qk_norm": False, "out_gate": False, "rope_factor": 1.0},
                        shared=ROTARY,
                    ),
                    "f": Demands(fixed={"relu2": False}, shared=("intermediate",)),
                    "moe": families()["granite_moe"].demands["moe"],
                },
                needs=("m2", "a"),
                pairs=True,
                max_meta_tokens=1,
                apart=("f", "moe"),
            ),
            interleaved=True,
        ),
        GgufFamily(
            Format(
                "nemotron_h",
                {
                    "m2": Demands(fixed=MAMBA2, shared=("heads", "expand", *MAMBA2_SHAPE)),
                    "a": Demands(
                        fixed={"qk_norm": False, "out_gate": False, "rope_share": 0.0},
                        shared=("head_dim",),
                    ),
                    "f": Demands(fixed={"relu2": True}),
                },
                needs=("m2", "a"),
                max_meta_tokens=1,
            ),
            second_norm="",
        ),
        GgufFamily(
            replace(
                QWEN,
                name="qwen35",
                demands={
                    **QWEN.demands,
                    "a": replace(
                        QWEN.demands["a"],
                        fixed={**QWEN.demands["a"].fixed, "qkv_bias": [False, True]},
                    ),
                },
            ),
            second_norm="post_attention_norm",
        ),
        GgufFamily(replace(EXPERTS, name="qwen3moe")),
        GgufFamily(replace(LFM2, name="lfm2"), output_norm="token_embd_norm"),
        _transformer("qwen3", False, qk_norm=True, rope_original=0),
        _transformer("llama"),
    )
}


def with_output_gates(architecture: Architecture) -> Architecture:
    """The architecture in the form that llama.cpp has beside Gated DeltaNet: attention with norms
    of queries and keys has an output gate, too. One whose weights are zero halves the output, so
    that a network without gates has this form as well."""
    operators = architecture.operators
    if not _first(operators, GatedDeltaNet):
        return architecture
    gated = (
        replace(spec, out_gate=True) if isinstance(spec, Attention) and spec.qk_norm else spec
        for spec in operators
    )
    return replace(architecture, operators=tuple(gated))


def family_of(architecture: Architecture) -> GgufFamily:
    """The first family that holds the architecture; raises ExportError with the rule that none
    meets.
    """
    formats = [family.format for family in FAMILIES.values()]
    return FAMILIES[choose(architecture, formats, "llama.cpp").name]


def _first(operators: Sequence[OperatorSpec], of: type[OperatorSpec]) -> Any:
    return next((spec for spec in operators if isinstance(spec, of)), None)
