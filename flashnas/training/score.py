"""ProxyScore: what a short training run says about an architecture. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class ProxyScore:
    """Lower is better. loss: nats per token over the validation slice, after the last step; bits_per_byte: the same,
    per byte of text. curve: (training tokens seen, validation loss); the last point is `loss`, earlier ones are taken
    over a part of the slice. tokens_per_s counts training steps only, seconds everything. proxy_params: parameters of
    the network that was trained. backends: what computed each kind of operator, as `HybridLM.backends` names it.
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
        return {**dataclasses.asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        curve = tuple((int(tokens), float(loss)) for tokens, loss in data["curve"])
        return cls(**{**data, "curve": curve})
