"""State-space and delta-rule models and hybrids: Mamba, Mamba2, Nemotron-H, Qwen3-Next, Qwen3.5,
LFM2."""

import math
from collections.abc import Callable

from flashnas.architecture.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.architecture.huggingface.transformer import (
    FULL,
    LINEAR,
    assembled,
    attention_of,
    experts_of,
    in_turn,
    kinds_of,
    known_kinds,
    networks_of,
)
from flashnas.architecture.notation import MAX_OPERATORS
from flashnas.base.text import shown
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba.spec import Mamba
from flashnas.operators.mamba2.spec import Mamba2

NEMOTRON_PATTERN = {"M": LINEAR, "*": FULL, "-": "mlp", "E": "moe"}


def mamba(config: HfConfig) -> Architecture:
    config.require("hidden_act", "silu", "Mamba with the activation")
    rank = 0 if config.get("time_step_rank") == "auto" else config.integer("time_step_rank")
    mixer = Mamba(
        expand=config.integer("expand"),
        state=config.integer("state_size"),
        dt_rank=rank,
        conv_size=config.integer("conv_kernel"),
        bias=config.flag("use_bias"),
        conv_bias=config.flag("use_conv_bias"),
    )
    return assembled(config, [mixer] * config.layers())


def mamba2(config: HfConfig) -> Architecture:
    config.require("hidden_act", "silu", "Mamba2 with the activation")
    return assembled(config, [mamba2_of(config, smallest_step(config))] * config.layers())


def nemotron_h(config: HfConfig) -> Architecture:
    """One operator per layer. transformers ignores `attention_bias` and `tie_word_embeddings` of
    this type."""
    kinds = _nemotron_kinds(config)
    operators: dict[str, OperatorSpec] = {}
    if LINEAR in kinds:
        config.require("mamba_hidden_act", "silu", "Mamba2 with the activation")
        operators[LINEAR] = mamba2_of(config, smallest_step(config))
    if FULL in kinds:
        operators[FULL] = attention_of(config, rope_share=0.0)
    if "mlp" in kinds:
        config.require(
            "mlp_hidden_act", "relu2", "ungated feed-forward networks with the activation"
        )
        operators["mlp"] = FeedForward(
            intermediate=config.integer("intermediate_size"),
            bias=config.flag("mlp_bias"),
            relu2=True,
        )
    if "moe" in kinds:
        config.require("moe_latent_size", None, "experts that read the stream by moe_latent_size")
        config.require("mlp_bias", False, "experts with mlp_bias")
        config.require("n_group", 1, "routers with n_group")
        operators["moe"] = experts_of(config)
    return assembled(config, [operators[kind] for kind in kinds], tied=False)


def _nemotron_kinds(config: HfConfig) -> list[str]:
    kinds = config.listed("layer_types", str)
    pattern = config.data.get("hybrid_override_pattern")
    if kinds is None and pattern is not None:
        if not isinstance(pattern, str) or not pattern or set(pattern) - set(NEMOTRON_PATTERN):
            raise config.error(
                "hybrid_override_pattern",
                f"must be letters of {' '.join(NEMOTRON_PATTERN)}; got {pattern!r}",
            )
        kinds = [NEMOTRON_PATTERN[letter] for letter in pattern]
    kinds = known_kinds(config, kinds or [LINEAR, "moe", FULL, "mlp"], NEMOTRON_PATTERN.values())
    if len(kinds) > MAX_OPERATORS:
        raise config.error("layer_types", f"at most {MAX_OPERATORS} layers; got {len(kinds)}")
    if config.data.get("num_hidden_layers") not in (None, len(kinds)):
        raise config.error(
            "num_hidden_layers",
            "must be the number of layers that the pattern lists,"
            f" {len(kinds)}; got {config.data['num_hidden_layers']!r}",
        )
    return kinds


def delta_hybrid(config: HfConfig) -> Architecture:
    """Gated DeltaNet and attention with gated output, each followed by its layer's network or
    experts.
    """
    interval = config.integer("full_attention_interval")
    usual = [LINEAR if (i + 1) % interval else FULL for i in range(config.layers())]
    kinds = kinds_of(config, usual, (LINEAR, FULL))
    mixers: dict[str, OperatorSpec] = {}
    if LINEAR in kinds:
        mixers[LINEAR] = _gated_delta_net(config)
    if FULL in kinds:
        mixers[FULL] = attention_of(config, qk_norm=True, out_gate=True)
    return in_turn(config, [mixers[kind] for kind in kinds], networks_of(config))


def _gated_delta_net(config: HfConfig) -> GatedDeltaNet:
    keys = config.integer("linear_num_key_heads")
    values = config.integer("linear_num_value_heads")
    key_dim = config.integer("linear_key_head_dim")
    value_dim = config.integer("linear_value_head_dim")
    if values % keys:
        raise config.error(
            "linear_num_value_heads", f"must be a multiple of the {keys} key heads; got {values}"
        )
    if key_dim != value_dim:
        raise config.lacking(
            "linear_value_head_dim",
            f"Gated DeltaNet with values of {value_dim} channels"
            f" and keys of {key_dim}; it has equal ones",
        )
    return GatedDeltaNet(
        k_heads=keys,
        expand_v=values // keys,
        head_dim=key_dim,
        conv_size=config.integer("linear_conv_kernel_dim"),
    )


def mamba2_of(config: HfConfig, dt_min: float) -> Mamba2:
    """The Mamba2 of a configuration. `expand` stands in place of the number of heads where both are
    equivalent. dt_min: the smallest time step."""
    hidden = config.integer("hidden_size")
    heads_key = config.first("num_heads", "mamba_num_heads", "mamba_n_heads")
    dim_key = config.first("mamba_head_dim", "mamba_d_head", "head_dim")
    heads = config.integer(heads_key)
    expand = config.first("expand", "mamba_expand")
    inner = config.integer(expand) * hidden if expand else None
    divided = inner is not None and config.get(dim_key) == "auto"
    head_dim = inner // heads if inner and divided else config.integer(dim_key)
    if inner and heads * head_dim != inner:
        raise config.error(
            heads_key, f"heads of {head_dim} channels must make up {inner}; got {heads}"
        )
    groups = config.first("n_groups", "mamba_n_groups")
    if heads % config.integer(groups):
        raise config.error(groups, f"must divide the {heads} heads; got {config.get(groups)}")
    mixer = Mamba2(
        heads=heads,
        head_dim=head_dim,
        state=config.integer(config.first("state_size", "ssm_state_size", "mamba_d_state")),
        groups=config.integer(groups),
        dt_min=dt_min,
        conv_size=config.integer(config.first("conv_kernel", "mamba_d_conv")),
        bias=config.flag(config.first("use_bias", "mamba_proj_bias")),
        conv_bias=config.flag(config.first("use_conv_bias", "mamba_conv_bias")),
    )
    return mixer.resolved(hidden)


LARGEST_STEP = 1e5  # largest time step from which on none is ever cut off; MLX wants a finite one


def smallest_step(config: HfConfig) -> float:
    """The lower end of `time_step_limit`; transformers writes infinity as Infinity or as
    {"__float__": "Infinity"}."""

    limit = config.data.get("time_step_limit")
    if limit is None:
        return 0.0
    listed = limit if isinstance(limit, list) else []
    ends = [math.inf if end == {"__float__": "Infinity"} else end for end in listed]
    if (
        len(ends) != 2
        or any(type(end) not in (int, float) for end in ends)
        or not 0 <= ends[0] < math.inf
    ):
        raise config.error("time_step_limit", f"must be a list of two numbers; got {limit!r}")
    if ends[1] < LARGEST_STEP:
        raise config.lacking("time_step_limit", f"Mamba2 with a largest time step ({ends[1]!r})")
    return float(ends[0])


def lfm2(config: HfConfig) -> Architecture:
    """Gated convolutions and attention, each followed by a feed-forward network of an adjusted
    size, or in all layers but the first ones by experts.
    """
    inner = config.integer("intermediate_size")
    if config.flag("block_auto_adjust_ff_dim"):
        inner = int(2 * inner / 3)
        if config.get("block_ffn_dim_multiplier") is not None:
            multiple = config.integer("block_multiple_of")
            inner = (
                -(-int(config.number("block_ffn_dim_multiplier") * inner) // multiple) * multiple
            )
    attending = config.listed("full_attn_idxs", int)
    usual = [
        FULL if attending is None or i in attending else "conv" for i in range(config.layers())
    ]
    if config.model_type == "lfm2_moe":
        usual = [""] * len(usual)  # they must be listed
    kinds = kinds_of(config, usual, ("conv", FULL))
    config.require("conv_bias", False, "gated convolutions with conv_bias")
    mixers: dict[str, OperatorSpec] = {
        "conv": GatedConvolution(conv_size=config.integer("conv_L_cache", least=2))
    }
    if FULL in kinds:
        mixers[FULL] = attention_of(config, qk_norm=True)
    networks = networks_of(config, FeedForward(intermediate=inner))
    return in_turn(config, [mixers[kind] for kind in kinds], networks)


def mamba2_hybrid(config: HfConfig) -> Architecture:
    """Bamba and Granite 4: Mamba2, or in listed layers attention, each followed by a feed-forward
    network or by experts, one of which reads every token without a gate. Granite rotates positions
    only where its configuration says so."""
    attending = config.listed("attn_layer_indices", int) or []
    usual = [FULL if i in attending else LINEAR for i in range(config.layers())]
    kinds = kinds_of(config, usual, (LINEAR, FULL))
    mixers: dict[str, OperatorSpec] = {}
    neutral: dict[str, float] = {}  # constant factors with which nothing changes
    options: dict[str, float] = {}
    if config.model_type == "granitemoehybrid":
        neutral = dict.fromkeys(
            ("embedding_multiplier", "residual_multiplier", "logits_scaling"), 1
        )
        if config.get("position_embedding_type") != "rope":
            options = {"rope_share": 0.0}
    if LINEAR in kinds:
        mixers[LINEAR] = mamba2_of(config, smallest_step(config))
    if FULL in kinds:
        mixers[FULL] = attention = attention_of(config, **options)
        if neutral:
            neutral["attention_multiplier"] = attention.head_dim**-0.5
    if factors := [
        f"{key} {shown(value)}"
        for key in neutral
        if (value := config.get(key)) not in (None, neutral[key])
    ]:
        config.deviations.append(
            f"constant factors, which cost no time, are left out ({', '.join(factors)})"
        )
    return in_turn(config, [mixers[kind] for kind in kinds], networks_of(config))


READERS: dict[str, Callable[[HfConfig], Architecture]] = {
    "mamba": mamba,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), delta_hybrid),
    **dict.fromkeys(("lfm2", "lfm2_moe"), lfm2),
    **dict.fromkeys(("bamba", "granitemoehybrid"), mamba2_hybrid),
}
