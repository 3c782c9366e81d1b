"""The full training that is planned: of so many tokens, or of as many as some hours of a device bring
each network. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.latency.schema import Device
from flashnas.training.cost import ASSUMED_UTILISATION, BACKWARD, H100_FLOPS

# of the rate of a dense training with as many active parameters: 23,600 of 37,500 tokens/s on an H100
# (arXiv 2409.02060, section 4.1)
SPARSE_RATE = 0.63


@dataclass(frozen=True, kw_only=True)
class FullTraining:
    """A training without validations.

    Args:
        tokens: of each network; None: as many as `hours` bring.
        hours: of one device, named `device`, that computes `peak_flops` per second in bfloat16.
        utilisation: share of these that the trainer reaches; 0.4 of a tuned one. Networks with
            experts train at SPARSE_RATE of it.
        context: tokens of a text, which attention sees.
        count: full trainings of the mix, which share the hours of short ones.

    Example:
        >>> import flashnas as fn
        >>> small, large = map(fn.Architecture.parse, ("1024: 12x(a f)", "2048: 24x(a f)"))
        >>> tokens = FullTraining(hours=1_000).tokens_of([small, large])
        >>> [f"{number / 1e9:.0f}B" for number in tokens]
        ['655B', '149B']
    """

    tokens: float | None = None
    hours: float | None = None
    device: str = "h100_sxm"
    peak_flops: float = H100_FLOPS
    utilisation: float = 0.4
    context: int = 4096
    count: int = 1

    def on(self, device: Device) -> FullTraining:
        """The same on the device of a latency table; on an H100, unless that is a GPU."""
        if device.platform != "cuda":
            return self
        peak = {"device": device.label or device.name, "peak_flops": device.peak_flops}
        return FullTraining(**{**vars(self), **peak})

    def tokens_of(self, networks: Sequence[Architecture]) -> np.ndarray:
        """Of the training of each network [N]."""
        if self.tokens is not None:
            return np.full(len(networks), self.tokens)
        return (self.hours or 0.0) * self._tokens_per_hour(networks)

    def hours_of(self, network: Architecture) -> float:
        """Of the device, for the training of a network."""
        if self.tokens is None:
            return self.hours or 0.0
        return float(self.tokens / self._tokens_per_hour([network])[0])

    def share_of(self, network: Architecture, hours: Any) -> Any:
        """Hours of short trainings as a share of those of all full ones; an array or a number."""
        return hours / (self.count * self.hours_of(network))

    def short_hours(self, flops: Any, *, sparse: bool = False) -> Any:
        """Of the device, for short trainings of so many FLOPs, an array or a number: they reach
        ASSUMED_UTILISATION of its FLOP/s, and with experts SPARSE_RATE of that."""
        rate = ASSUMED_UTILISATION * (SPARSE_RATE if sparse else 1.0)
        return flops / (3600 * rate * self.peak_flops)

    def _tokens_per_hour(self, networks: Sequence[Architecture]) -> np.ndarray:
        if isinstance(networks, Networks):
            forward = networks.flops_per_token(self.context)
            sparse = networks.active_params < networks.params
        else:
            forward = np.array([network.flops_per_token(self.context) for network in networks])
            sparse = np.array([each.active_params < each.params for each in networks], bool)
        rates = self.utilisation * self.peak_flops * np.where(sparse, SPARSE_RATE, 1.0)
        return 3600 * rates / (forward * (1 + BACKWARD))
