"""The operators computed with torch. `build_layer` imports a layer's module only when it is asked for.

Every layer maps the normalised input to the residual update and has three agreeing forms:

- `reference(x_BTD, state)`: a plain loop over time in float64, the ground truth; read it first;
- `forward(x_BTD, state)`: parallel or chunked, for training and prefill; the returned state continues the sequence;
- `step(x_BD, state)`: one token; a state may be continued only once (caches are written in place).

Shape letters: B batch, T time, D hidden size, H heads, K key dim, V value dim, N chunks, C chunk length or channels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from flashnas.errors import OperatorError
from flashnas.hints import one_of

if TYPE_CHECKING:
    from flashnas.operators.layers.common import Layer
    from flashnas.operators.spec import OperatorSpec

LAYERS = {
    "attention": "AttentionLayer",
    "sliding_window_attention": "SlidingWindowAttentionLayer",
    "mamba": "MambaLayer",
    "mamba2": "Mamba2Layer",
    "gla": "GatedLinearAttentionLayer",
    "delta_net": "DeltaNetLayer",
    "gated_delta_net": "GatedDeltaNetLayer",
    "rwkv7": "Rwkv7Layer",
    "kimi_delta_attention": "KimiDeltaAttentionLayer",
    "hybrid_head": "HybridHeadLayer",
    "feed_forward": "FeedForwardLayer",
    "mixture_of_experts": "MixtureOfExpertsLayer",
}


def build_layer(spec: OperatorSpec, hidden: int) -> Layer:
    """The torch layer of that operator, without the pre-norm; raises OperatorError for an operator without one."""
    if spec.name not in LAYERS:
        raise OperatorError(one_of("layer", spec.name, LAYERS))
    module = importlib.import_module(f"{__name__}.{spec.name}")
    layer: Layer = getattr(module, LAYERS[spec.name])(spec, hidden)
    return layer
