"""State-space and delta-rule models and hybrids: Mamba, Mamba2, Nemotron-H, Qwen3-Next, Qwen3.5,
LFM2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flashnas.architecture.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.architecture.huggingface.transformer import (
    FULL,
    LINEAR,
    OLD_NAMES,
    alternating,
    assembled,
    attention_of,
    experts_of,
    feed_forward_of,
    feed_forwards,
    in_turn,
    kinds_of,
)
from flashnas.architecture.notation import MAX_OPERATORS
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba.spec import Mamba
from flashnas.operators.mamba2.spec import Mamba2

NO_STEP = 1e-30  # smallest time step of an export of a network without one: it has a logarithm
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
    heads = config.integer("num_heads")
    head_dim = config.integer("head_dim")
    inner = config.integer("expand") * config.integer("hidden_size")
    if heads * head_dim != inner:
        raise config.error(
            "num_heads",
            f"num_heads x head_dim must be expand x hidden_size = {inner};"
            f" got {heads} x {head_dim}",
        )
    mixer = mamba2_of(config, heads, head_dim, smallest_step(config))
    return assembled(config, [mixer] * config.layers())


def nemotron_h(config: HfConfig) -> Architecture:
    """One operator per layer. transformers ignores `attention_bias` and `tie_word_embeddings` of
    this type."""
    kinds = _nemotron_kinds(config)
    operators: dict[str, OperatorSpec] = {}
    if LINEAR in kinds:
        config.require("mamba_hidden_act", "silu", "Mamba2 with the activation")
        for old, new in (
            ("mamba_n_groups", "n_groups"),
            ("mamba_d_conv", "conv_kernel"),
            ("mamba_conv_bias", "use_conv_bias"),
            ("mamba_dt_min", "time_step_min"),
        ):
            config.rename(old, new)
        operators[LINEAR] = mamba2_of(
            config,
            config.integer("mamba_num_heads"),
            config.integer("mamba_head_dim"),
            smallest if (smallest := config.number("time_step_min")) > NO_STEP else 0.0,
        )
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
    kinds = config.listed("layers_block_type", str) or config.listed("layer_types", str)
    pattern = config.data.get("hybrid_override_pattern")
    if kinds is None and pattern is not None:
        if not isinstance(pattern, str) or not pattern or set(pattern) - set(NEMOTRON_PATTERN):
            raise config.error(
                "hybrid_override_pattern",
                f"must be letters of {' '.join(NEMOTRON_PATTERN)}; got {pattern!r}",
            )
        kinds = [NEMOTRON_PATTERN[letter] for letter in pattern]
    kinds = [OLD_NAMES.get(kind, kind) for kind in kinds or [LINEAR, "moe", FULL, "mlp"]]
    for kind in kinds:
        if kind not in NEMOTRON_PATTERN.values():
            raise config.lacking("layers_block_type", f"the layer type {kind!r} in nemotron_h")
    if len(kinds) > MAX_OPERATORS:
        raise config.error("layers_block_type", f"at most {MAX_OPERATORS} layers; got {len(kinds)}")
    if config.data.get("num_hidden_layers") not in (None, len(kinds)):
        raise config.error(
            "num_hidden_layers",
            "must be the number of layers that the pattern lists,"
            f" {len(kinds)}; got {config.data['num_hidden_layers']!r}",
        )
    return kinds


def qwen3_next(config: HfConfig) -> Architecture:
    return _delta_hybrid(config, feed_forwards(config))


def qwen3_5(config: HfConfig) -> Architecture:
    """The language model; its configuration is an entry of that of the model that also reads
    images.
    """
    return qwen3_5_text(config.inner("text_config", "qwen3_5_text"))


def qwen3_5_text(config: HfConfig) -> Architecture:
    return _delta_hybrid(config, [feed_forward_of(config)] * config.layers())


def qwen3_5_moe(config: HfConfig) -> Architecture:
    """As `qwen3_5`."""
    return qwen3_5_moe_text(config.inner("text_config", "qwen3_5_moe_text"))


def qwen3_5_moe_text(config: HfConfig) -> Architecture:
    config.rename("num_local_experts", "num_experts")
    return _delta_hybrid(config, [experts_of(config)] * config.layers())


def _delta_hybrid(config: HfConfig, networks: Sequence[OperatorSpec]) -> Architecture:
    """Gated DeltaNet and attention with gated output, each followed by its layer's network or
    experts.
    """
    interval = config.integer("full_attention_interval")
    kinds = kinds_of(
        config,
        [LINEAR if (i + 1) % interval else FULL for i in range(len(networks))],
        (LINEAR, FULL),
    )
    mixers: dict[str, OperatorSpec] = {}
    if LINEAR in kinds:
        mixers[LINEAR] = _gated_delta_net(config)
    if FULL in kinds:
        mixers[FULL] = attention_of(config, qk_norm=True, out_gate=True)
    return in_turn(config, [mixers[kind] for kind in kinds], networks)


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


def mamba2_of(config: HfConfig, heads: int, head_dim: int, dt_min: float) -> Mamba2:
    """The Mamba2 of a configuration. `expand` stands in place of the number of heads where both are
    equivalent. dt_min: the smallest time step."""
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
    return mixer.resolved(config.integer("hidden_size"))


LARGEST_STEP = 1e5  # largest time step from which on none is ever cut off; MLX wants a finite one


def smallest_step(config: HfConfig) -> float:
    """The lower end of `time_step_limit`; transformers writes infinity as Infinity or as
    {"__float__": "Infinity"}."""

    def plain(value: Any) -> Any:
        return math.inf if value == {"__float__": "Infinity"} else value

    limit = config.data.get("time_step_limit")
    if limit is None:
        return 0.0
    ends = [plain(end) for end in limit] if isinstance(limit, list) else []
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
    size.
    """
    config.rename("block_ff_dim", "intermediate_size")
    inner = config.integer("intermediate_size")
    if config.flag("block_auto_adjust_ff_dim"):
        inner = int(2 * inner / 3)
        if config.get("block_ffn_dim_multiplier") is not None:
            multiple = config.integer("block_multiple_of")
            inner = (
                -(-int(config.number("block_ffn_dim_multiplier") * inner) // multiple) * multiple
            )
    attending = config.listed("full_attn_idxs", int)
    kinds = kinds_of(
        config,
        [FULL if attending is None or i in attending else "conv" for i in range(config.layers())],
        ("conv", FULL),
    )
    return _lfm2(config, kinds, [FeedForward(intermediate=inner)] * len(kinds))


def lfm2_moe(config: HfConfig) -> Architecture:
    """As `lfm2`, with experts in all layers but the first ones."""
    kinds = kinds_of(config, [""] * config.layers(), ("conv", FULL))
    experts = experts_of(config)
    network = FeedForward(intermediate=config.integer("intermediate_size"))
    dense = config.integer("num_dense_layers", least=0)
    return _lfm2(config, kinds, [experts if n >= dense else network for n in range(len(kinds))])


def _lfm2(config: HfConfig, kinds: Sequence[str], networks: Sequence[OperatorSpec]) -> Architecture:
    config.require("conv_bias", False, "gated convolutions with conv_bias")
    config.rename("tie_embedding", "tie_word_embeddings")
    taps = config.integer("conv_L_cache", least=2)
    attention = attention_of(config, qk_norm=True) if FULL in kinds else None
    mixers = [
        GatedConvolution(conv_size=taps) if kind == "conv" or attention is None else attention
        for kind in kinds
    ]
    return in_turn(config, mixers, networks)


# -- hybrids with the Mamba2 of Bamba --------------------------------------------------------------


def bamba(config: HfConfig) -> Architecture:
    """Mamba2, or in listed layers attention, each followed by a feed-forward network."""
    attending = config.listed("attn_layer_indices", int) or []
    kinds = [FULL if i in attending else LINEAR for i in range(config.layers())]
    return alternating(config, _mixers(config, kinds))


def granitemoehybrid(config: HfConfig) -> Architecture:
    """Mamba2 or attention, each followed by a feed-forward network or by experts, one of which
    reads every token without a gate. Positions are rotated only where the configuration says so."""
    config.rename("layers_block_type", "layer_types")
    kinds = kinds_of(config, [LINEAR] * config.layers(), (LINEAR, FULL))
    rotates = config.get("position_embedding_type") == "rope"
    mixers = _mixers(config, kinds, **({} if rotates else {"rope_share": 0.0}))
    attention = next((spec for spec in mixers if isinstance(spec, Attention)), None)
    scale = config.get("attention_multiplier") if attention is None else attention.head_dim**-0.5
    network: OperatorSpec
    if config.integer("num_local_experts", least=0):
        network = experts_of(config)
    else:
        network = feed_forward_of(config, "shared_intermediate_size")
    config.leave_out_factors(
        embedding_multiplier=1,
        residual_multiplier=1,
        logits_scaling=1,
        attention_multiplier=scale,
    )
    return in_turn(config, mixers, [network] * len(kinds))


def falcon_h1(config: HfConfig) -> Architecture:
    """Attention and Mamba2 side by side, each followed by a feed-forward network; both are read as
    layers one after the other, which need a norm each."""
    layers = config.layers()
    hidden = config.integer("hidden_size")
    inner = config.integer_or_none("mamba_d_ssm") or config.integer("mamba_expand") * hidden
    if config.flag("mamba_proj_bias") != config.flag("projectors_bias"):
        raise config.lacking("projectors_bias", "Mamba2 with a bias of one projection alone")
    block = (
        _mamba2(config, inner),
        attention_of(config),
        feed_forward_of(config),
    )
    added = hidden if config.flag("mamba_rms_norm") else hidden + inner
    config.deviations.append(
        "Mamba2 and attention are taken one after the other and not side by side, with norms of"
        f" {layers * added:,} parameters more"
    )
    if config.flag("mamba_rms_norm") and config.flag("mamba_norm_before_gate"):
        config.deviations.append("Mamba2 is normalised behind its gate and not before it")
    config.leave_out_factors(
        embedding_multiplier=1,
        lm_head_multiplier=1,
        key_multiplier=1,
        attention_in_multiplier=1,
        attention_out_multiplier=1,
        ssm_in_multiplier=1,
        ssm_out_multiplier=1,
        mlp_multipliers=[1] * 2,
        ssm_multipliers=[1] * 5,
    )
    return assembled(config, list(block) * layers)


def _mixers(config: HfConfig, kinds: list[str], **options: float) -> list[OperatorSpec]:
    """The mixer of each layer; options: of the attention."""
    specs: dict[str, OperatorSpec] = {}
    if LINEAR in kinds:
        inner = config.integer("mamba_expand") * config.integer("hidden_size")
        specs[LINEAR] = _mamba2(config, inner)
    if FULL in kinds:
        specs[FULL] = attention_of(config, **options)
    return [specs[kind] for kind in kinds]


def _mamba2(config: HfConfig, inner: int) -> Mamba2:
    """inner: channels of all heads together."""
    heads = config.integer("mamba_n_heads")
    divided = config.get("mamba_d_head") == "auto"
    head_dim = inner // heads if divided else config.integer("mamba_d_head")
    if heads * head_dim != inner:
        raise config.error(
            "mamba_n_heads", f"heads of {head_dim} channels must make up {inner}; got {heads}"
        )
    return mamba2_of(config, heads, head_dim, smallest_step(config))
