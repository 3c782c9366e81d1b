"""Rank correlations with bootstrap intervals. No torch.

Statistics take paired arrays and work along the last axis, so that all resamples are computed at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
TOGETHER = 1 << 21  # pairs of entries compared at once in all resamples
LEAST = 3  # pairs of which a rank correlation can be taken


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson correlation of the ranks, ties in the mean; 0 where one side is constant (a resample may be)."""
    ranks = [stats.rankdata(side, axis=axis) for side in (x, y)]
    a, b = (r - r.mean(axis, keepdims=True) for r in ranks)
    scale = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return np.asarray((a * b).sum(axis) / np.where(scale > 0, scale, 1.0))


def kendall(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """tau-b: agreeing minus disagreeing pairs over those that are not tied; 0 where one side is constant."""
    x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    first, second = np.triu_indices(x.shape[-1], 1)
    a, b = (np.sign(side[..., first] - side[..., second]) for side in (x, y))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray((a * b).sum(-1) / np.where(scale > 0, scale, 1.0))


def interval(columns: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> Interval:
    """The statistic with a bootstrap interval over the entries of paired columns, the same resamples in every call.

    Bias-corrected and accelerated (Efron 1987); percentiles where resamples that all agree leave that undefined.
    """
    value = float(statistic(*columns))
    batch = max(1, TOGETHER // len(columns[0]) ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples
        found = stats.bootstrap(columns, statistic, paired=True, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
                                method="BCa", vectorized=True, batch=batch, rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    if not np.isfinite([low, high]).all():
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(found.bootstrap_distribution, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
