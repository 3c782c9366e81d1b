"""What the full training of a network costs, in FLOPs and hours of an H100. No torch."""

from __future__ import annotations

from flashnas.architecture import Architecture
from flashnas.training.cost import BACKWARD, H100_FLOPS

# tokens of a text, and the share of an H100's FLOP/s that a tuned trainer reaches
FULL_CONTEXT, FULL_UTILISATION = 4096, 0.4
# of the rate of a dense training with as many active parameters: 23,600 of 37,500 tokens/s on an H100
# (arXiv 2409.02060, section 4.1)
SPARSE_RATE = 0.63


def full_training_flops(network: Architecture, tokens: float) -> float:
    """FLOPs of a full training without validations, on texts of FULL_CONTEXT tokens.

    Args:
        network: as it is searched.
        tokens: of the training.
    """
    return network.flops_per_token(FULL_CONTEXT) * (1 + BACKWARD) * tokens


def full_training_hours(network: Architecture, tokens: float) -> float:
    """The same in hours of an H100."""
    hours = h100_hours(full_training_flops(network, tokens))
    return hours / (SPARSE_RATE if network.active_params < network.params else 1)


def h100_hours(flops: float) -> float:
    """At FULL_UTILISATION."""
    return flops / (FULL_UTILISATION * H100_FLOPS) / 3600
