"""The loss of a plain transformer by its size, its shape and its tokens.

    loss = E + (a N^(-alpha / delta) + b / D)^delta + c (r - r0)^2

N: parameters without embeddings, in 1e9. D: training tokens, in 1e11. r: ln(width / depth), where
the depth is N / (12 width^2): the blocks of attention and feed-forward that so many parameters
make. The shipped constants come from 19 shapes of arXiv 2502.06857 (Gemstones), 48M to 1B
parameters, 11 to 350 billion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARAMETERS, TOKENS = 1e9, 1e11  # units of N and D
RANGE = (7e9, 3.5e11)  # tokens: fewer or more count as these, which publications have


def aspect(params: np.ndarray, width: np.ndarray) -> np.ndarray:
    """r: ln(width / depth) [N]. params [N]: without embeddings."""
    return np.log(12 * np.asarray(width, float) ** 3 / np.asarray(params, float))


@dataclass(frozen=True)
class Law:
    """The constants of the law; `loss` gives nats per token."""

    e: float
    a: float
    alpha: float
    b: float
    delta: float
    r0: float
    c: float

    def loss(self, params: np.ndarray, tokens: np.ndarray | float, width: np.ndarray) -> np.ndarray:
        """Args: params [N] without embeddings, tokens [N] of the training, width [N]. Returns: nats
        per token [N]."""
        n, d = (
            np.asarray(params, float) / PARAMETERS,
            np.clip(np.asarray(tokens, float), *RANGE) / TOKENS,
        )
        by_size = (self.a * n ** (-self.alpha / self.delta) + self.b / d) ** self.delta
        return self.e + by_size + self.c * (aspect(params, width) - self.r0) ** 2
