"""What a search can say about itself while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """done, failed: trained networks of this run, baselines included; total: those it will train.

    `remaining_s` rests on the mean training time seen so far; None before the first one is finished.
    """

    done: int
    failed: int
    reused: int
    infeasible: int
    total: int
    best_loss: float | None
    best_latency_ms: float | None
    remaining_s: float | None
