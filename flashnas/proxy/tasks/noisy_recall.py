"""Noisy in-context recall: pairs of meaningless tokens, from a vocabulary of their own, are between the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashnas.proxy.tasks.in_context_recall import InContextRecall


@dataclass(frozen=True, kw_only=True)
class NoisyRecall(InContextRecall):
    """In-context recall in which each pair is noise with probability `noise`."""

    name: ClassVar[str] = "noisy-recall"
    vocab: int = 32
    noise: float = 0.2
    noise_vocab: int = 16
