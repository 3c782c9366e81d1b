"""Transformers: Llama (SmolLM, SmolLM2), Mistral, Qwen2 and Qwen2.5, Qwen3, SmolLM3; Mixtral, Qwen2-MoE,
Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.architecture.huggingface.rotary import rope_options
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts

FULL, SLIDING = "full_attention", "sliding_attention"


def llama(config: HfConfig) -> Architecture:
    heads, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    if hidden % heads:
        raise config.error("num_attention_heads", f"must divide the hidden size {hidden}; got {heads}")
    attention = attention_of(config, bias=config.flag("attention_bias"))
    return _alternating(config, [attention] * config.layers(), bias=config.flag("mlp_bias"))


def mistral(config: HfConfig) -> Architecture:
    attention = attention_of(config)
    window = config.whole_or_none("sliding_window")
    return _alternating(config, [windowed(attention, window) if window else attention] * config.layers())


def qwen2(config: HfConfig) -> Architecture:
    return _alternating(config, _windows(config, attention_of(config, qkv_bias=True)))


def qwen3(config: HfConfig) -> Architecture:
    attention = attention_of(config, bias=config.flag("attention_bias"), qk_norm=True)
    return _alternating(config, _windows(config, attention))


def smollm3(config: HfConfig) -> Architecture:
    layers, interval = config.layers(), config.whole("no_rope_layer_interval")
    bias = config.flag("attention_bias")
    plain, none = attention_of(config, bias=bias), attention_of(config, bias=bias, rope_share=0.0)
    rotated = config.listed("no_rope_layers", int)  # 1 where positions are rotated, despite the name
    rotated = [int((i + 1) % interval != 0) for i in range(layers)] if rotated is None else rotated
    if len(rotated) < layers:
        raise config.error("no_rope_layers", f"must have an entry for each of the {layers} layers; got"
                                             f" {len(rotated)}")
    window = config.whole_or_none("sliding_window") if config.flag("use_sliding_window") else None
    kinds = config.listed("layer_types", str, layers)
    kinds = kinds or [FULL if window is None or turned else SLIDING for turned in rotated[:layers]]
    mixers = [_of_kind(config, kind, plain if turned else none, window)
              for kind, turned in zip(kinds, rotated, strict=False)]
    return _alternating(config, mixers, bias=config.flag("mlp_bias"))


def mixtral(config: HfConfig) -> Architecture:
    layers, attention = config.layers(), attention_of(config)
    window = config.whole_or_none("sliding_window")
    config.rename("num_experts", "num_local_experts")
    mixer = windowed(attention, window) if window else attention
    experts = experts_of(config, count_key="num_local_experts", size_key="intermediate_size", normalise=True)
    return assembled(config, [mixer, experts] * layers)


def qwen2_moe(config: HfConfig) -> Architecture:
    layers, first = config.layers(), config.whole("max_window_layers", least=0)
    attention = attention_of(config, qkv_bias=config.flag("qkv_bias"))
    window = config.whole_or_none("sliding_window") if config.flag("use_sliding_window") else None
    kinds = config.listed("layer_types", str, layers)
    kinds = kinds or [SLIDING if window is not None and i % 2 == 0 and i < first else FULL
                      for i in range(layers)]
    return _with_experts(config, [_of_kind(config, kind, attention, window) for kind in kinds], shared=True)


def qwen3_moe(config: HfConfig) -> Architecture:
    attention = attention_of(config, bias=config.flag("attention_bias"), qk_norm=True)
    window = config.whole_or_none("sliding_window") if config.flag("use_sliding_window") else None
    return _with_experts(config, [windowed(attention, window) if window else attention] * config.layers(),
                         shared=False)


def _with_experts(config: HfConfig, mixers: list[Attention], *, shared: bool) -> Architecture:
    networks = feed_forwards(config, len(mixers), shared=shared)
    return assembled(config, [part for pair in zip(mixers, networks, strict=True) for part in pair])


def feed_forwards(config: HfConfig, layers: int, *, shared: bool) -> list[OperatorSpec]:
    """One per layer: experts in every `decoder_sparse_step`-th one that `mlp_only_layers` does not name.
    shared: one more expert reads every token."""
    dense, step = set(config.listed("mlp_only_layers", int) or []), config.whole("decoder_sparse_step")
    config.rename("num_local_experts", "num_experts")
    count = config.whole("num_experts", least=0)
    sparse = [i not in dense and count > 0 and (i + 1) % step == 0 for i in range(layers)]
    experts = experts_of(config, shared=shared,
                         normalise=config.flag("norm_topk_prob")) if any(sparse) else None
    network = None if all(sparse) else feed_forward_of(config)
    return [part for is_sparse in sparse if (part := experts if is_sparse else network) is not None]


def experts_of(config: HfConfig, *, count_key: str = "num_experts", size_key: str = "moe_intermediate_size",
               shared: bool = False, normalise: bool) -> MixtureOfExperts:
    """The mixture of experts of a configuration.

    Args:
        count_key, size_key: the keys for the number of experts and for the intermediate size of each.
        shared: one more expert, with a gate, reads every token.
        normalise: the probabilities of the chosen experts add up to 1.
    """
    config.require("hidden_act", "silu", "experts with the activation")
    count, active = config.whole(count_key), config.whole("num_experts_per_tok")
    if active > count:
        raise config.error("num_experts_per_tok", f"must be at most {count_key} {count}; got {active}")
    if normalise and active == 1:
        raise config.lacking("num_experts_per_tok", "a single expert per token whose probability counts as 1")
    size = config.whole("shared_expert_intermediate_size") if shared else 0
    return MixtureOfExperts(experts=count, active=active, intermediate=config.whole(size_key), shared=size,
                            shared_gate=shared, normalise=normalise)


def attention_of(config: HfConfig, *, bias: bool = False, **options: Any) -> Attention:
    """The attention of a configuration; bias: of all four projections."""
    heads, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    kv_heads = config.whole_or_none("num_key_value_heads") or heads
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"must divide the {heads} attention heads; got {kv_heads}")
    head_dim = config.whole_or_none("head_dim") or hidden // heads
    if head_dim < 2 or head_dim % 2:
        key = "head_dim" if "head_dim" in config.data else "num_attention_heads"
        raise config.lacking(key, f"heads of an odd number of channels ({head_dim})")
    if options.get("rope_share") != 0:
        options = {**rope_options(config), **options}
    return Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim,
                     **{"qkv_bias": bias, "out_bias": bias, **options})


def windowed(attention: Attention, window: int) -> Attention:
    return SlidingWindowAttention(**vars(attention), window=window)


def feed_forward_of(config: HfConfig, *, bias: bool = False) -> FeedForward:
    config.require("hidden_act", "silu", "feed-forward networks with the activation")
    return FeedForward(intermediate=config.whole("intermediate_size"), bias=bias)


def assembled(config: HfConfig, operators: list[OperatorSpec], tied: bool | None = None) -> Architecture:
    """Operators with the embedding and the head of the configuration; tied None: read from it."""
    return Architecture(hidden=config.whole("hidden_size"), vocab=config.whole("vocab_size", least=2),
                        tied=config.flag("tie_word_embeddings") if tied is None else tied,
                        operators=tuple(operators))


def _alternating(config: HfConfig, mixers: list[Attention], *, bias: bool = False) -> Architecture:
    feed_forward = feed_forward_of(config, bias=bias)
    return assembled(config, [operator for mixer in mixers for operator in (mixer, feed_forward)])


def _windows(config: HfConfig, attention: Attention) -> list[Attention]:
    """Qwen2 and Qwen3: layers from `max_window_layers` on see a window if it is switched on."""
    layers, first = config.layers(), config.whole("max_window_layers", least=0)
    window = config.whole_or_none("sliding_window") if config.flag("use_sliding_window") else None
    kinds = config.listed("layer_types", str, layers)
    kinds = kinds or [SLIDING if window is not None and i >= first else FULL for i in range(layers)]
    return [_of_kind(config, kind, attention, window) for kind in kinds]


def _of_kind(config: HfConfig, kind: str, attention: Attention, window: int | None) -> Attention:
    if kind == SLIDING:
        if window is None:
            raise config.error("layer_types", f"{kind!r} needs use_sliding_window and sliding_window")
        return windowed(attention, window)
    if kind not in (FULL, "attention"):
        raise config.lacking("layer_types", f"the layer type {kind!r} in {config.model_type}")
    return attention
