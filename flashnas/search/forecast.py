"""What a paused training would end with, from its curve so far and from finished trainings of the same
recipe.

Within one schedule the learning rate falls towards the end, and with it the loss. A law of the tokens alone
does not know that; the finished trainings of the recipe do. The final loss is therefore a Bayesian linear
regression on the loss at the pause and on how far it fell since the point before:

    final = loss + a + b (loss - mean) + c (fall - mean) + noise

with a normal prior on a, b, c and an inverse gamma prior on the variance of the noise, so that the prediction
is a Student-t distribution. Without finished trainings it is the prior: the order at the pause is expected to
last, with wide tails. a is the same for all networks, so that it does not blur the order among paused ones:
predictions have a covariance.

experiments/rungs shows errors, coverage and where the prior is from. No torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

Curve = Sequence[Sequence[float]]    # [tokens, validation loss in nats per token], to the end or to a pause

NOISE_NATS = 0.08                    # prior of the noise: its scale at the start of a training; 0 at the end
NOISE_TRAININGS = 3.0                # how many trainings that prior counts as; also its degrees of freedom
DROP_NATS, DROP_SPREAD = 0.5, 1.0    # prior of -a, from the start of a training: mean and standard deviation
LOSS_SPREAD, FALL_SPREAD = 0.5, 1.0  # standard deviations of b and c around 0


@dataclass(frozen=True)
class Forecast:
    """Final losses of N paused networks, jointly Student-t: mean [N] in nats per token, scale [N, N] (the
    covariance is `scale` times freedom / (freedom - 2)), degrees of freedom above 2."""

    mean: np.ndarray
    scale: np.ndarray
    freedom: float

    @property
    def sd(self) -> np.ndarray:
        return np.asarray(np.sqrt(np.diag(self.scale) * self.freedom / (self.freedom - 2)))

    def below(self, level: np.ndarray) -> np.ndarray:
        """Probability [N] that each final loss is below its level [N]; an infinite level gives 1."""
        z = (level - self.mean) / np.sqrt(np.diag(self.scale))
        return np.asarray(stdtr(self.freedom, z))

    def below_each_other(self) -> np.ndarray:
        """Probability [N, N] that the final loss of the first is below that of the second; 1/2 on the
        diagonal."""
        variance = np.diag(self.scale)
        spread = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * self.scale, 1e-24))
        return np.asarray(stdtr(self.freedom, (self.mean[None, :] - self.mean[:, None]) / spread))


def forecast(paused: Sequence[Curve], finished: Sequence[Curve], tokens: int) -> Forecast:
    """The final losses of paused trainings, in their order. paused: curves that end at the pause, at least
    one. finished: curves to the end of the same recipe; those without a point at the pause are left out."""
    pause = paused[0][-1][0]
    cuts = [cut for curve in finished if (cut := _cut(curve, pause)) is not None]
    share = pause / tokens
    seen = np.array([_features(cut) for cut, _ in cuts]).reshape(len(cuts), 2)
    features = np.array([_features(curve) for curve in paused])
    centre = np.concatenate([seen, features]).mean(axis=0)
    rows, paused_rows = (np.column_stack([np.ones(len(part)), part - centre]) for part in (seen, features))
    drops = np.array([final - cut[-1][1] for cut, final in cuts])

    noise = NOISE_NATS * (1 - share)
    prior = np.array([-DROP_NATS * (1 - share), 0.0, 0.0])
    spread = np.array([DROP_SPREAD * (1 - share), LOSS_SPREAD, FALL_SPREAD]) / noise  # in units of the noise
    precision = np.diag(spread**-2) + rows.T @ rows
    covariance = np.linalg.inv(precision)
    weights = covariance @ (prior / spread**2 + rows.T @ drops)
    freedom = NOISE_TRAININGS + len(cuts)
    misfit = drops - rows @ weights
    squares = NOISE_TRAININGS * noise**2 + misfit @ misfit + ((weights - prior) ** 2 / spread**2).sum()
    scale = squares / freedom * (np.eye(len(features)) + paused_rows @ covariance @ paused_rows.T)
    return Forecast(features[:, 0] + paused_rows @ weights, scale, freedom)


def meaningful_from(finished: Sequence[Curve], *, least: float) -> int | None:
    """The tokens of the first point of finished curves from which on the order of losses is that of the final
    losses; None if that holds at their end only. The curves are of different networks, with points at the
    same tokens.

    least: Spearman's rank correlation with the final losses that this point and all later ones reach.
    """
    first = None
    for tokens, correlation in reversed(rank_correlations(finished)):
        if not correlation >= least:
            break
        first = tokens
    return first


def rank_correlations(finished: Sequence[Curve]) -> list[tuple[int, float]]:
    """(tokens, Spearman's correlation of the loss there with the final loss) of all points but the last."""
    from scipy.stats import spearmanr  # half a second, which only a search with rungs pays

    points = [int(tokens) for tokens, _ in finished[0][:-1]]
    final = [curve[-1][1] for curve in finished]
    return [(tokens, float(spearmanr([curve[place][1] for curve in finished], final).statistic))
            for place, tokens in enumerate(points)]


def _cut(curve: Curve, pause: float) -> tuple[Curve, float] | None:
    """The part of a finished curve to the pause, and the final loss; None without a point there."""
    for place, (tokens, _) in enumerate(curve):
        if tokens == pause:
            return (curve[:place + 1], float(curve[-1][1])) if place + 1 < len(curve) else None
    return None


def _features(curve: Curve) -> tuple[float, float]:
    """The loss at the end of a curve, and how far it fell since the point before."""
    loss = float(curve[-1][1])
    return loss, float(curve[-2][1]) - loss if len(curve) > 1 else 0.0
