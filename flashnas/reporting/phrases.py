"""Parts of sentences that an answer and a comparison share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flashnas.base.text import signed
from flashnas.run_folder.recorded_answer import DenseOrSparse, Turn

REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
    "experts": "experts",
}


def chance(probability: float) -> str:
    """None is 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def reasons_text(reasons: Mapping[str, float]) -> str:
    """`by size +0.106, experts -0.137`: parts of a difference that are not 0."""
    parts = [
        f"{REASONS[n]} {signed(value)}" for n, value in reasons.items() if abs(value) >= 0.0005
    ]
    return f"by {', '.join(parts)}" if parts else ""


def holds(two: DenseOrSparse) -> str:
    """`from 12 GB on and up to batch 4`: where the mean has the sign that it has within the limits."""
    words = [f"from {_agreeing(two['by_memory'][::-1]):.3g} GB on"]
    if two["by_batch"]:
        words.append(f"up to batch {_agreeing(two['by_batch']):.0f}")
    return " and ".join(words)


def _agreeing(turns: Sequence[Turn]) -> float:
    """The last of the first limits at which the sign is that of the first one."""
    first, last = turns[0], turns[0]["limit"]
    for turn in turns:
        difference = turn["difference"]
        if difference is None or (difference < 0) != ((first["difference"] or 0) < 0):
            break
        last = turn["limit"]
    return last
