"""Transformers: Llama (SmolLM, SmolLM2), Mistral, Ministral, Qwen2 and Qwen2.5, Qwen3, SmolLM3;
Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE; and by their sizes alone those of `TAKEN`."""

from collections.abc import Callable, Container, Sequence
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.base.text import shown
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.operators.spec import MAX_VALUE

FULL = "full_attention"
SLIDING = "sliding_attention"
LINEAR = "linear_attention"
OLD_NAMES = {"mamba": LINEAR, "attention": FULL}
SHARED = "shared_expert_intermediate_size"
ROPE_TYPES = ("default", "linear", "llama3")
# model types that are read for time and memory, because their weights would compute something else,
# and what of each is taken as something else
TAKEN = {
    "exaone4": "norms behind operators count as norms in front of them, and all layers have plain positions",
    "gemma3_text": "four norms of a layer count as two, GELU as SiLU, constant factors are left out, and all"
    " layers have the same plain positions",
    "gpt_oss": "attention sinks, biases and clamps of experts, YaRN positions and 4-bit weights are left"
    " out",
    "granite_swa": "attention sinks and constant factors are left out, and all layers have the same plain"
    " positions",
    "olmo2": "norms behind operators count as norms in front of them, and those of queries and keys are of"
    " each head and not of all heads together; all layers have plain positions",
}
TAKEN |= {"gemma3": TAKEN["gemma3_text"], "olmo3": TAKEN["olmo2"]}
QKV_BIAS = ("qwen2",)
QK_NORM = ("qwen3", "qwen3_moe", "olmoe", "exaone4", "gemma3_text", "olmo2", "olmo3")
# layers with a window where `layer_types` does not say; of other types all layers, if there is one
SLIDES: dict[str, Callable[[HfConfig, int], bool]] = {
    **dict.fromkeys(("qwen2", "qwen3"), lambda config, i: i >= config.get("max_window_layers")),
    "qwen2_moe": lambda config, i: i % 2 == 0 and i < config.get("max_window_layers"),
    "gpt_oss": lambda config, i: i % 2 == 0,
    **dict.fromkeys(("exaone4", "olmo2", "olmo3"), lambda config, i: (i + 1) % 4 > 0),
    "gemma3_text": lambda config, i: (i + 1) % config.get("sliding_window_pattern") > 0,
    "granite_swa": lambda config, i: i % 4 > 0,
    "smollm3": lambda config, i: not rotated(config)[i],
}


def transformer(config: HfConfig) -> Architecture:
    """Attention, in some layers with a window, each followed by a feed-forward network or experts."""
    kind = config.model_type
    for key, least in (("max_window_layers", 0), ("sliding_window_pattern", 1)):
        if config.first(key):
            config.integer(key, least=least)
    options: dict[str, Any] = {"qk_norm": kind in QK_NORM}
    if kind in QKV_BIAS or config.first("qkv_bias"):
        options["qkv_bias"] = kind in QKV_BIAS or config.flag("qkv_bias")
    if kind in TAKEN:
        config.deviations.append(TAKEN[kind])
        options["rope_share"] = 1.0
    if kind == "olmoe":
        config.require("clip_qkv", None, "attention with clip_qkv")
        config.deviations.append(
            "queries and keys are normalised in each head and not over all heads together"
        )
    mixers = _attention_layers(config, attention_of(config, **options))
    if kind == "smollm3":
        still = _attention_layers(config, attention_of(config, rope_share=0.0, **options))
        turned = rotated(config)
        mixers = [one if turned[i] else still[i] for i, one in enumerate(mixers)]
    return in_turn(config, mixers, networks_of(config))


def rotated(config: HfConfig) -> list[int]:
    """1 for each layer of SmolLM3 where positions are rotated, despite the name of the key."""
    layers, interval = config.layers(), config.integer("no_rope_layer_interval")
    listed = config.listed("no_rope_layers", int)
    if listed is not None and len(listed) < layers:
        raise config.error(
            "no_rope_layers",
            f"must have an entry for each of the {layers} layers; got {len(listed)}",
        )
    return listed or [int((i + 1) % interval != 0) for i in range(layers)]


def networks_of(config: HfConfig, network: FeedForward | None = None) -> list[OperatorSpec]:
    """What stands behind the mixer of each layer: experts, if the model type has them, but where
    `mlp_only_layers`, `decoder_sparse_step` or `num_dense_layers` say otherwise. network: the
    feed-forward network; None: that of the configuration."""
    layers = config.layers()
    sparse = [False] * layers
    if count := config.first("num_experts", "num_local_experts"):
        dense = set(config.listed("mlp_only_layers", int) or [])
        some = config.integer(count, least=0) > 0
        step = config.integer("decoder_sparse_step") if config.first("decoder_sparse_step") else 1
        first = (
            config.integer("num_dense_layers", least=0) if config.first("num_dense_layers") else 0
        )
        sparse = [
            some and i >= first and i not in dense and (i + 1) % step == 0 for i in range(layers)
        ]
    experts = experts_of(config) if any(sparse) else None
    if not all(sparse):
        network = network or feed_forward_of(config)
    return [part for is_sparse in sparse if (part := experts if is_sparse else network) is not None]


def experts_of(config: HfConfig) -> MixtureOfExperts:
    """The mixture of experts of a configuration. Which keys its model type has says what it is: a
    shared expert without a gate, or probabilities by sigmoids, which are scaled."""
    relu2 = bool(config.first("mlp_hidden_act"))
    if activation := config.first("mlp_hidden_act", "hidden_act"):
        usual = "relu2" if relu2 else "silu"
        config.require(activation, usual, "experts with the activation")
    count_key = config.first("num_experts", "num_local_experts", "n_routed_experts")
    shared_key = config.first(
        SHARED, "moe_shared_expert_intermediate_size", "shared_intermediate_size"
    )
    scaled = config.first("routed_scaling_factor")
    normalise = config.flag("norm_topk_prob") if config.first("norm_topk_prob") else True
    count, active = config.integer(count_key), config.integer("num_experts_per_tok")
    if active > count:
        raise config.error(
            "num_experts_per_tok", f"must be at most {count_key} {count}; got {active}"
        )
    if normalise and active == 1:
        raise config.lacking(
            "num_experts_per_tok", "a single expert per token whose probability counts as 1"
        )
    return MixtureOfExperts(
        experts=count,
        active=active,
        intermediate=config.integer(config.first("moe_intermediate_size", "intermediate_size")),
        shared=config.integer(shared_key) if shared_key else 0,
        shared_gate=shared_key == SHARED,
        normalise=normalise,
        relu2=relu2,
        sigmoid=bool(scaled),
        scale=config.number(scaled) if scaled else 1.0,
    )


def attention_of(config: HfConfig, **options: Any) -> Attention:
    """The attention of a configuration; options: further ones of the operator."""
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    kv_heads = config.integer_or_none("num_key_value_heads") or heads
    if heads % kv_heads:
        raise config.error(
            "num_key_value_heads", f"must divide the {heads} attention heads; got {kv_heads}"
        )
    head_dim = config.integer_or_none("head_dim")
    if head_dim is None:
        head_dim = hidden // heads
        if hidden % heads:
            raise config.error(
                "num_attention_heads", f"must divide the hidden size {hidden}; got {heads}"
            )
    if head_dim < 2 or head_dim % 2:
        key = "head_dim" if "head_dim" in config.data else "num_attention_heads"
        raise config.lacking(key, f"heads of an odd number of channels ({head_dim})")
    bias = config.flag("attention_bias")
    if "rope_share" not in options:
        options = {**rope_options(config), **options}
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        **{"qkv_bias": bias, "out_bias": bias, **options},
    )


def rope_options(config: HfConfig) -> dict[str, Any]:
    """The rope options of an Attention; raises ArchitectureError naming positions that flashnas
    lacks.
    """
    key = "rope_scaling" if config.data.get("rope_scaling") else "rope_parameters"
    positions = config.data.get(key) or {}
    if not isinstance(positions, dict):
        raise config.error(key, f"must be a mapping; got {positions!r}")
    if any(isinstance(value, dict) for value in positions.values()):
        raise config.lacking(key, "rotary positions that differ between kinds of layers")

    def number(name: str, default: Any, least: float = 1.0) -> float:
        value = positions.get(name, default)
        if type(value) not in (int, float) or not least <= value <= MAX_VALUE:
            place = name if name not in positions and name in config.data else f"{key}.{name}"
            raise config.error(place, f"must be a number of at least {least:g}; got {value!r}")
        return float(value)

    options: dict[str, Any] = {"rope_theta": number("rope_theta", config.get("rope_theta"))}
    kind = positions.get("rope_type", positions.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise config.lacking(
            f"{key}.rope_type", f"rotary positions of type {kind!r}; it has {', '.join(ROPE_TYPES)}"
        )
    part = positions.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is not None and config.defaults["partial_rotary_factor"] is not None:
        options["rope_share"] = number("partial_rotary_factor", part, least=0.0)
    elif part not in (None, 1) and kind != "default":  # which does not read it in these models
        raise config.lacking(
            f"{key}.partial_rotary_factor",
            f"partly rotated heads ({part!r}) in {config.model_type}",
        )
    if kind != "default":
        options["rope_factor"] = number("factor", None)
    if kind == "llama3":
        for name, needed in (("low_freq_factor", 1.0), ("high_freq_factor", 4.0)):
            if (value := positions.get(name)) != needed:
                raise config.lacking(
                    f"{key}.{name}", f"llama3 positions with {shown(value)}; it has {needed:g}"
                )
        name = "original_max_position_embeddings"
        usual = config.data.get(name, config.get("max_position_embeddings"))
        options["rope_original"] = int(number(name, usual))
    return options


def feed_forward_of(config: HfConfig) -> FeedForward:
    """The feed-forward network of a configuration."""
    if config.first("hidden_act") and config.model_type not in TAKEN:
        config.require("hidden_act", "silu", "feed-forward networks with the activation")
    size = config.first("shared_intermediate_size", "intermediate_size")
    return FeedForward(intermediate=config.integer(size), bias=config.flag("mlp_bias"))


def assembled(
    config: HfConfig, operators: list[OperatorSpec], tied: bool | None = None
) -> Architecture:
    """Operators with the embedding and the head of the configuration; tied None: read from it."""
    return Architecture(
        hidden=config.integer("hidden_size"),
        vocab=config.integer("vocab_size", least=2),
        tied=config.flag("tie_word_embeddings") if tied is None else tied,
        operators=tuple(operators),
    )


def in_turn(
    config: HfConfig, mixers: Sequence[OperatorSpec], networks: Sequence[OperatorSpec]
) -> Architecture:
    """Each token mixer with its feed-forward network behind it."""
    return assembled(config, [part for pair in zip(mixers, networks, strict=True) for part in pair])


def kinds_of(config: HfConfig, usual: list[str], allowed: Container[str]) -> list[str]:
    """The `layer_types`, or the usual ones where the key is absent."""
    return known_kinds(config, config.listed("layer_types", str, len(usual)) or usual, allowed)


def known_kinds(config: HfConfig, listed: list[str], allowed: Container[str]) -> list[str]:
    """The listed ones by their present names."""
    kinds = [OLD_NAMES.get(kind, kind) for kind in listed]
    for kind in kinds:
        if kind not in allowed:
            raise config.lacking("layer_types", f"the layer type {kind!r} in {config.model_type}")
    return kinds


def _attention_layers(config: HfConfig, attention: Attention) -> list[Attention]:
    """The attention of each layer, with a window or without."""
    window = config.integer_or_none("sliding_window") if config.first("sliding_window") else None
    if config.first("use_sliding_window") and not config.flag("use_sliding_window"):
        window = None
    slides = SLIDES.get(config.model_type, lambda config, i: True)
    usual = [SLIDING if window and slides(config, i) else FULL for i in range(config.layers())]
    kinds = kinds_of(config, usual, (SLIDING, FULL))
    if SLIDING not in kinds:
        return [attention] * len(kinds)
    if window is None:
        raise config.error(
            "layer_types", f"{SLIDING!r} needs use_sliding_window and sliding_window"
        )
    windowed = SlidingWindowAttention(**vars(attention), window=window)
    return [windowed if kind == SLIDING else attention for kind in kinds]
