"""Expected hypervolume improvement over any few objectives, of which some are known exactly. Pure numpy."""

from __future__ import annotations

import numpy as np

from flashnas.search.hypervolume_improvement import expected_improvement
from flashnas.search.pareto import non_dominated


def expected_grid_improvement(mean: np.ndarray, sd: np.ndarray, points: np.ndarray, reference: np.ndarray,
                              ) -> np.ndarray:
    """How much volume each of N candidates is expected to dominate beyond `points` [P, M], below `reference` [M].

    mean, sd: [N, M], independent normal beliefs; sd 0: known exactly. Lower is better. The planes through the points
    cut the space into a grid. In a cell that no point dominates a candidate at y gains the product over objectives of
    max(upper - y, 0) - max(lower - y, 0), and the expectation of a product of independent factors is the product of
    ordinary expected improvements. Exact (as the box decompositions of Yang et al. 2019, on the full grid, which is
    small enough for fronts of tens of points in up to four objectives).
    """
    inside = points[(points < reference).all(axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    dimensions = range(len(reference))
    levels = [np.unique(inside[:, m]) for m in dimensions]                    # upper edges but the last
    taken = np.zeros([len(level) + 1 for level in levels], dtype=bool)        # cells that a point dominates
    taken[tuple(np.searchsorted(levels[m], inside[:, m]) + 1 for m in dimensions)] = True
    for m in dimensions:
        taken = np.logical_or.accumulate(taken, axis=m)
    gain = (~taken).astype(np.float64)[None]
    for m in reversed(dimensions):  # sum over the cells of one objective after the other, the last first
        uppers = np.append(levels[m], reference[m])
        below = expected_improvement(mean[:, m, None], np.maximum(sd[:, m, None], 1e-12), uppers[None, :])
        width_NL = np.diff(below, axis=1, prepend=0.0)
        gain = np.einsum("n...l,nl->n...", np.broadcast_to(gain, (len(mean), *gain.shape[1:])), width_NL)
    return gain
