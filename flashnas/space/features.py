"""Genotypes as numbers, for a model of the loss."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from flashnas.operators import OperatorSpec

PARTS = 3  # of the depth, for each of which the shares of kinds are counted


def list_features(operators: Sequence[OperatorSpec], kinds: Sequence[OperatorSpec]) -> np.ndarray:
    """A nonempty operator list as numbers, float64 [K + 3 K + 3].

    The count of each kind, its share in each third of the depth, the share of feed-forward layers,
    the depth, and how often the mixer changes. An operator on a border counts in both thirds, by
    the part of it that lies in each.
    """
    depth = len(operators)
    index = {spec: i for i, spec in enumerate(kinds)}
    one_hot = np.eye(len(kinds))[[index[spec] for spec in operators]]
    edges = np.arange(depth + 1) * PARTS / depth
    starts = np.arange(PARTS)[:, None]
    within = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    mixers = [spec for spec in operators if spec.mixes_tokens]
    changes = sum(one != other for one, other in itertools.pairwise(mixers))
    return np.concatenate(
        [
            one_hot.sum(0),
            (np.clip(within, 0.0, None) @ one_hot).ravel(),
            [1.0 - len(mixers) / depth, depth, changes],
        ]
    )
