"""The operators: what they state without torch, and how they are computed.

Each operator has a folder: `spec.py` states sizes, kernels and what readers see; `layer.py`
computes with torch. `spec.py` and `layer.py` of this folder are the contracts. Layers share `parts`
(norms, convolutions, positions), `recurrences` and `backends` (the libraries that can compute a
core). A new operator is one folder and one line below, or an entry point of another package.
"""

from flashnas.base.errors import OperatorError
from flashnas.base.registry import Registry
from flashnas.operators.kernel import KernelCall, KernelKind, Phase
from flashnas.operators.spec import OperatorSpec

__all__ = ["OPERATORS", "KernelCall", "KernelKind", "OperatorSpec", "Phase"]

OPERATORS: Registry[type[OperatorSpec]] = Registry(
    "operator",
    "flashnas.operators",
    {
        "a": "flashnas.operators.attention.spec:Attention",
        "swa": "flashnas.operators.attention.spec:SlidingWindowAttention",
        "m": "flashnas.operators.mamba.spec:Mamba",
        "m2": "flashnas.operators.mamba2.spec:Mamba2",
        "gla": "flashnas.operators.gla.spec:GatedLinearAttention",
        "d": "flashnas.operators.delta_net.spec:DeltaNet",
        "gd": "flashnas.operators.gated_delta_net.spec:GatedDeltaNet",
        "r7": "flashnas.operators.rwkv7.spec:Rwkv7",
        "kda": "flashnas.operators.kimi_delta_attention.spec:KimiDeltaAttention",
        "conv": "flashnas.operators.gated_convolution.spec:GatedConvolution",
        "f": "flashnas.operators.feed_forward.spec:FeedForward",
        "moe": "flashnas.operators.mixture_of_experts.spec:MixtureOfExperts",
    },
    OperatorError,
    "kind",
    base="flashnas.operators.spec:OperatorSpec",
)
