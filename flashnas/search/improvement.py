"""Expected hypervolume improvement over a few objectives, of which some are known exactly. Pure numpy."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from flashnas.search.pareto import non_dominated


def expected_improvement(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(level - Y, 0)] for Y ~ N(mean, sd²); arrays that broadcast, sd > 0."""
    z = (level - mean) / sd
    return np.maximum((level - mean) * ndtr(z) + sd * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), 0.0)


def expected_hypervolume_improvement(mean: np.ndarray, sd: np.ndarray, points: np.ndarray,
                                     reference: np.ndarray,
                                     ) -> np.ndarray:
    """How much volume each of N candidates is expected to dominate beyond `points` [P, M], below `reference`
    [M].

    mean, sd: [N, M], independent normal beliefs; sd 0: known exactly. Lower is better. The planes through the
    points cut the space into a grid. In a cell that no point dominates a candidate at y gains the product
    over objectives of max(upper - y, 0) - max(lower - y, 0), and the expectation of a product of independent
    factors is the product of ordinary expected improvements. Exact (as the box decompositions of Yang et al.
    2019), on the full grid, which is small enough for fronts of tens of points in up to four objectives.
    """
    inside = points[(points < reference).all(axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    dimensions = range(len(reference))
    levels = [np.unique(inside[:, m]) for m in dimensions]                    # upper edges but the last
    taken = np.zeros([len(level) + 1 for level in levels], dtype=bool)        # cells that a point dominates
    taken[tuple(np.searchsorted(levels[m], inside[:, m]) + 1 for m in dimensions)] = True
    for m in dimensions:
        taken = np.logical_or.accumulate(taken, axis=m)
    widths_NL = []                                                            # expected widths of the cells
    for m in dimensions:
        below = expected_improvement(mean[:, m, None], np.maximum(sd[:, m, None], 1e-12),
                                     np.append(levels[m], reference[m])[None, :])
        widths_NL.append(np.diff(below, axis=1, prepend=0.0))
    # the sum over all cells, one objective after the other; the first as a product of matrices, which
    # is the large one
    gain = np.tensordot(widths_NL[-1], (~taken).astype(np.float64), axes=(1, -1))
    for width_NL in reversed(widths_NL[:-1]):
        gain = np.einsum("n...l,nl->n...", gain, width_NL)
    return gain
