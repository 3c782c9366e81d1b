"""LFM2: gated short convolutions and attention."""

from __future__ import annotations

from flashnas.architecture.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.architecture.huggingface.transformer import FULL, assembled, attention_of
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_convolution.spec import GatedConvolution


def lfm2(config: HfConfig) -> Architecture:
    """Gated convolutions and attention, each followed by a feed-forward network of an adjusted size."""
    config.require("conv_bias", False, "gated convolutions with conv_bias")
    config.rename("block_ff_dim", "intermediate_size")
    config.rename("tie_embedding", "tie_word_embeddings")
    inner = config.whole("intermediate_size")
    if config.flag("block_auto_adjust_ff_dim"):
        inner = int(2 * inner / 3)
        if config.get("block_ffn_dim_multiplier") is not None:
            multiple = config.whole("block_multiple_of")
            inner = -(-int(config.number("block_ffn_dim_multiplier") * inner) // multiple) * multiple
    layers = config.layers()
    attending = config.listed("full_attn_idxs", int)
    kinds = config.listed("layer_types", str, layers) or [
        FULL if attending is None or i in attending else "conv" for i in range(layers)]
    taps = config.whole("conv_L_cache", least=2)
    mixers: dict[str, OperatorSpec] = {"conv": GatedConvolution(conv_size=taps)}
    if set(kinds) - {"conv"}:
        mixers[FULL] = attention_of(config, qk_norm=True)
    for kind in kinds:
        if kind not in mixers:
            raise config.lacking("layer_types", f"the layer type {kind!r} in {config.model_type}")
    return assembled(config, [part for kind in kinds
                              for part in (mixers[kind], FeedForward(intermediate=inner))])
