"""One row of a run: what was proposed, what came of it. Shared by search, pipeline and report; no logic of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["complete", "failed", "infeasible", "reused"]
Origin = Literal["baseline", "search"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a run, in the order of the trajectory (`number`), not of completion.

    complete: trained in this run. reused: the same network was already trained; its figures are repeated.
    infeasible: outside a budget at every width, never trained. failed: training broke off; `reason` says why.
    Figures that do not exist are None. `loss` is the validation loss in nats per token; `curve` holds
    [tokens seen, validation loss] pairs; `scores` accuracies of synthetic tasks in 0..1, by score or task; times as
    named.
    """

    number: int
    cycle: int
    origin: Origin
    label: str = ""                 # of a baseline, such as "pure 7x(d f)"
    state: State
    reason: str = ""
    genotype: dict[str, Any]        # the space's encoding (Optuna parameters)
    notation: str = ""              # at full width, as searched
    hash: str = ""
    hidden: int | None = None
    params: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    latency_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    throughput_tok_s: float | None = None
    memory_gb: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    curve: list[list[float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    proxy_params: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    train_seconds: float | None = None
    seed: int | None = None
    backends: dict[str, str] = field(default_factory=dict)  # what computed each kind of operator in training

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        return cls(**data)
