"""The operators. This room states sizes and kernels without torch; `layers/` beside it computes them with torch."""

from flashnas.errors import OperatorError
from flashnas.hints import one_of
from flashnas.operators.attention import Attention, SlidingWindowAttention
from flashnas.operators.delta_net import DeltaNet
from flashnas.operators.feed_forward import FeedForward
from flashnas.operators.gated_delta_net import GatedDeltaNet
from flashnas.operators.gla import GatedLinearAttention
from flashnas.operators.hybrid_head import HybridHead
from flashnas.operators.kimi_delta_attention import KimiDeltaAttention
from flashnas.operators.mamba import Mamba
from flashnas.operators.mamba2 import Mamba2
from flashnas.operators.mixture_of_experts import MixtureOfExperts
from flashnas.operators.rwkv7 import Rwkv7
from flashnas.operators.spec import KernelCall, OperatorSpec, Phase

__all__ = ["OPERATORS", "KernelCall", "OperatorSpec", "Phase", "operator_class"]

OPERATORS: dict[str, type[OperatorSpec]] = {cls.kind: cls for cls in (
    Attention,
    SlidingWindowAttention,
    Mamba,
    Mamba2,
    GatedLinearAttention,
    DeltaNet,
    GatedDeltaNet,
    Rwkv7,
    KimiDeltaAttention,
    HybridHead,
    FeedForward,
    MixtureOfExperts,
)}


def operator_class(kind: str) -> type[OperatorSpec]:
    """The operator of that short name; raises OperatorError listing the known ones."""
    if kind not in OPERATORS:
        raise OperatorError(one_of("operator", kind, OPERATORS))
    return OPERATORS[kind]
