"""Hybrids with the Mamba2 of Bamba: Bamba itself, Granite 4 and Falcon-H1."""

from __future__ import annotations

from flashnas.architecture.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.architecture.huggingface.hybrid import mamba2_of, smallest_step
from flashnas.architecture.huggingface.transformer import (
    FULL,
    LINEAR,
    alternating,
    assembled,
    attention_of,
    experts_of,
    feed_forward_of,
    in_turn,
    kinds_of,
)
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.mamba2.spec import Mamba2


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
