"""Parts of sentences that an answer and a comparison share."""

from __future__ import annotations

from collections.abc import Mapping

from flashnas.base.text import signed

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
