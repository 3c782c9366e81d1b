"""The times of whole operators as they were measured on a table's device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd

from flashnas.latency.calibration import BoundedTime
from flashnas.latency.grid import OUTSIDE_SPREAD, LogGrid
from flashnas.latency.schema import OPERATOR_DECODE, OPERATOR_KINDS
from flashnas.latency.table import LatencyTable, texts
from flashnas.operators import Phase

KEYS = ["operator", "hidden", "vocab"]


class OperatorTimes:
    """Answers by the rows in `dtype`. settings: of their stack."""

    def __init__(self, table: LatencyTable, dtype: str) -> None:
        self._frames: dict[str, dict[Any, pd.DataFrame]] = {}
        for kind in table.frames.keys() & OPERATOR_KINDS:
            rows = table.frames[kind]
            groups = rows[rows["dtype"] == dtype].groupby(KEYS, observed=True)
            self._frames[kind] = dict(iter(groups))
        self.settings = table.settings(texts(table, "stack", OPERATOR_KINDS, dtype))
        self._grid = functools.cache(self._find_grid)  # of the object, so that it ends with it

    def has(self, operator: str, hidden: int, vocab: int = 0) -> bool:
        """True if the operator was measured in any phase; then kernels are not composed for it."""
        return any((operator, hidden, vocab) in groups for groups in self._frames.values())

    def answer(
        self, operator: str, hidden: int, phase: Phase, batch: int, seen: np.ndarray, vocab: int = 0
    ) -> BoundedTime | None:
        """None outside the measured batches and lengths. Below the shortest measured length that
        one answers, and beyond the largest of several batches the line through them, as `derived`.
        operator: str(spec.resolved(hidden)), `embedding` or `head`. seen: contexts over which the
        mean is taken, or one value: the tokens of each sequence."""
        grid = self._grid(f"operator_{phase}", operator, hidden, vocab)
        if grid is None:
            return None
        batches, axis = grid.axes
        if phase == "decode" and axis.values[-1] == 1:
            seen = np.ones(1)  # written as context 0: independent of the context
        largest = np.inf if len(batches.values) > 1 else batches.values[0]
        if seen.max() > axis.values[-1] or not batches.values[0] <= batch <= largest:
            return None
        sizes = {axis.name: np.maximum(seen, axis.values[0])}
        answer = grid.mean(*grid.at(batch=batch, **sizes))
        return answer.derived(OUTSIDE_SPREAD) if seen.min() < axis.values[0] else answer

    def _find_grid(self, kind: str, operator: str, hidden: int, vocab: int) -> LogGrid | None:
        rows = self._frames.get(kind, {}).get((operator, hidden, vocab))
        if rows is None:
            return None
        length = "context" if kind == OPERATOR_DECODE else "tokens"
        rows = rows.assign(**{length: np.maximum(rows[length], 1)})
        return LogGrid.from_rows(rows, ["batch", length], grow="batch")
