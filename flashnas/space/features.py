"""An operator list as a vector of fixed length, for models that predict the loss."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from flashnas.operators import OperatorSpec

THIRDS = ("first", "second", "last")  # of the depth


def names(kinds: Sequence[OperatorSpec]) -> tuple[str, ...]:
    """Names of the entries of `describe`."""
    counts = [f"count {spec}" for spec in kinds]
    shares = [f"share {spec} in {third} third" for third in THIRDS for spec in kinds]
    return (*counts, *shares, "ffn share", "depth", "mixer switches")


def describe(operators: Sequence[OperatorSpec], kinds: Sequence[OperatorSpec]) -> np.ndarray:
    """A nonempty operator list as numbers, float64 [len(names(kinds))]. An operator on a border
    counts in both thirds, by the part of it that lies in each."""
    index = {spec: i for i, spec in enumerate(kinds)}
    ids = np.array([index[spec] for spec in operators])
    depth = len(operators)
    one_hot = np.zeros((depth, len(kinds)))
    one_hot[np.arange(depth), ids] = 1.0
    edges = np.arange(depth + 1) / depth * len(THIRDS)
    weights = np.stack(
        [
            np.clip(np.minimum(edges[1:], i + 1) - np.maximum(edges[:-1], i), 0.0, None)
            for i in range(len(THIRDS))
        ]
    )
    mixers = [i for i, spec in zip(ids, operators, strict=True) if spec.mixes_tokens]
    switches = sum(a != b for a, b in itertools.pairwise(mixers))
    return np.concatenate(
        [
            one_hot.sum(0),
            (weights @ one_hot).ravel(),
            [1.0 - len(mixers) / depth, float(depth), float(switches)],
        ]
    )
