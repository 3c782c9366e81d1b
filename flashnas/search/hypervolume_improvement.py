"""Expected hypervolume improvement of (loss, latency) when the latency is known exactly. Pure numpy."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr


def staircase(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best loss seen at each latency, as steps: `edges` [K + 2] in latency, `levels` [K + 1] in loss.

    points [N, 2] holds (loss, latency), lower is better. Between edges[k] and edges[k + 1] the level is levels[k]. The
    first edge is minus infinity, the first level the reference's loss, the last edge the reference's latency.
    """
    inside = points[(points < reference).all(axis=1)]
    inside = inside[np.lexsort((inside[:, 0], inside[:, 1]))]
    edges, levels = [-np.inf], [float(reference[0])]
    for loss, latency in inside:
        if loss < levels[-1]:
            edges.append(float(latency))
            levels.append(float(loss))
    return np.array([*edges, reference[1]]), np.array(levels)


def expected_improvement(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(level - Y, 0)] for Y ~ N(mean, sd²); arrays that broadcast, sd > 0."""
    z = (level - mean) / sd
    return np.maximum((level - mean) * ndtr(z) + sd * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), 0.0)


def expected_hypervolume_improvement(mean: np.ndarray, sd: np.ndarray, latency: np.ndarray, points: np.ndarray,
                                     reference: np.ndarray) -> np.ndarray:
    """How much dominated area each of N candidates is expected to add to `points` [M, 2] of (loss, latency).

    mean, sd, latency: [N]. A candidate of latency t and loss y adds, in every step of the staircase to the right of t,
    the step's width times max(level - y, 0); the expectation over y ~ N(mean, sd²) is therefore a sum of ordinary
    expected improvements, one per step. Exact.
    """
    edges, levels = staircase(points, reference)
    left = np.maximum(edges[None, :-1], latency[:, None])
    width = np.maximum(edges[None, 1:] - left, 0.0)
    gain = expected_improvement(mean[:, None], np.maximum(sd, 1e-12)[:, None], levels[None, :])
    return (width * gain).sum(axis=1)
