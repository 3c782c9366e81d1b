"""What a longer training would end with, from the curve of a short one. No torch.

A curve is taken for `L + c tokens^-gamma`. One network's curve says something about its limit L and its height c, and
hardly anything about the exponent, which therefore has a prior; so has the limit. Depth and width have no place here:
in the law of `flashnas scaling-law` their terms do not change with the tokens, and are in L.

The points before the last are not ends of trainings. Their learning rate has not fallen yet, and those of the first
third tell more of the warm-up than of the network. The first third is left out, and the others count little. How little
was chosen on the 24 networks of experiments/proxy_trust, where rank.py compares the result with trainings of four times
the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashnas.training.recipe import Recipe

FIRST_SHARE = 1 / 3                     # of the tokens, whose points are left out
END_NATS, EARLIER_NATS = 0.009, 0.2     # standard deviation of the last point (its seed), and of the others
GAMMA, GAMMA_SPREAD = 0.35, 0.3         # prior of the exponent: median, standard deviation of its logarithm
LIMIT_NATS, LIMIT_SPREAD = 2.0, 1.0     # prior of the limit L: mean and standard deviation
HEIGHT_NATS, HEIGHT_SPREAD = 3.0, 5.0   # prior of c tokens^-gamma at the end of the training
NODES = 41                              # exponents over which is summed
LEAST_POINTS = 2                        # of a curve that are used


@dataclass(frozen=True)
class Extrapolation:
    """loss: expected at the end of a longer training, in nats per token. sd: its standard deviation; the greater part
    of it is shared by all networks that were trained alike, and does not blur their order."""

    loss: float
    sd: float


def usable_points(curve: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The points of a curve of [tokens, loss] that `extrapolate` uses."""
    return [(float(tokens), float(loss)) for tokens, loss in curve if tokens >= FIRST_SHARE * curve[-1][0]]


def why_not(tokens: int, recipe: Recipe) -> str:
    """Why the curves of a recipe cannot be extrapolated to so many tokens: the rule and the value, or an empty text."""
    trained = recipe.steps * recipe.batch_tokens
    if tokens <= trained:
        return f"must be above the tokens of a training ({trained:,}); got {tokens:,}"
    curve = [(trained * (point + 1) / recipe.curve_points, 0.0) for point in range(recipe.curve_points)]
    if len(usable_points(curve)) < LEAST_POINTS or recipe.steps < recipe.curve_points:
        return (f"needs {LEAST_POINTS} points after the first third of a training; recipe {recipe.name!r} has"
                f" curve_points {recipe.curve_points} in {recipe.steps} steps")
    return ""


def extrapolate(curve: Sequence[Sequence[float]], tokens: float) -> Extrapolation:
    """The loss that the training would end with at `tokens` tokens.

    Args:
        curve: [tokens, validation loss in nats per token] of one training, to its end.
        tokens: of the longer training.
    """
    points = np.array(usable_points(curve))
    end = points[-1, 0]
    noise_P = np.full(len(points), EARLIER_NATS)
    noise_P[-1] = END_NATS
    nodes_G = np.linspace(-2.5, 2.5, NODES)
    gamma_G = GAMMA * np.exp(GAMMA_SPREAD * nodes_G)
    # rows: the points, and the priors of limit and height as two more measurements
    prior_noise = np.array([LIMIT_SPREAD, HEIGHT_SPREAD])
    target = np.concatenate([points[:, 1] / noise_P, [LIMIT_NATS, HEIGHT_NATS] / prior_noise])
    log_weight_G, mean_G, variance_G = (np.empty(NODES) for _ in range(3))
    for place, gamma in enumerate(gamma_G):
        shape_P = (points[:, 0] / end) ** -gamma
        rows = np.concatenate([np.stack([np.ones_like(shape_P), shape_P], axis=1) / noise_P[:, None],
                               np.diag(1 / prior_noise)])
        covariance = np.linalg.inv(rows.T @ rows)
        constants = covariance @ rows.T @ target
        asked = np.array([1.0, (tokens / end) ** -gamma])
        misfit = target - rows @ constants
        log_weight_G[place] = (np.linalg.slogdet(covariance)[1] - misfit @ misfit - nodes_G[place] ** 2) / 2
        mean_G[place], variance_G[place] = asked @ constants, asked @ covariance @ asked
    weight_G = np.exp(log_weight_G - log_weight_G.max())
    weight_G /= weight_G.sum()
    mean = float(weight_G @ mean_G)
    return Extrapolation(mean, float(np.sqrt(weight_G @ (variance_G + (mean_G - mean) ** 2))))
