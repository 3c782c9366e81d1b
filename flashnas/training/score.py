"""ProxyScore: the result of a short training of an architecture. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class ProxyScore:
    """The score of one trained network; lower is better.

    loss: nats per token over the validation slice, after the last step.
    bits_per_byte: the same loss per byte of text.
    curve: (training tokens, validation loss); the last point is `loss`, earlier points use a part of the slice.
    tokens: training tokens.
    tokens_per_s: training tokens per second of training steps, without validation.
    seconds: of the whole training, with validation.
    seed: of start and order of the text.
    proxy_params: parameters of the trained network.
    backends: the library that computed each kind of operator, as `HybridLM.backends` names it.
    """

    loss: float
    bits_per_byte: float
    curve: tuple[tuple[int, float], ...]
    tokens: int
    tokens_per_s: float
    seconds: float
    seed: int
    proxy_params: int
    backends: dict[str, str] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` gives an equal object back."""
        return {**dataclasses.asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The score of a `to_dict`."""
        curve = tuple((int(tokens), float(loss)) for tokens, loss in data["curve"])
        return cls(**{**data, "curve": curve})
