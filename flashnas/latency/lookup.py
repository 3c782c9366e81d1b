"""The times of kernels and of whole operators on a table's device, by interpolation of its rows.

A whole operator that was measured answers before any sum of kernels. A kernel without rows is
answered by the rules of its kind (operators/kernel.py).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flashnas.latency.calibration import SOURCE_SPREAD, BoundedTime, around
from flashnas.latency.grid import HEADS_SPREAD, OUTSIDE_SPREAD, LogGrid, bracket
from flashnas.latency.schema import OPERATOR_DECODE, OPERATOR_KINDS
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.workload import DTYPE_BYTES, WEIGHT_BYTES
from flashnas.operators import KernelCall, KernelKind, Phase
from flashnas.operators.kernel import Asked


class LookupFailure(Exception):
    """No row and no rule answers; the message names kind and shape."""


class KernelTimes:
    """Answers kernel calls in rows of `dtype`; of kinds with weights in rows of the type `weights`,
    if one is given."""

    def __init__(self, table: LatencyTable, dtype: str, weights: str = "") -> None:
        self.table, self.dtype, self.weights = table, dtype, weights
        self.dtype_bytes = DTYPE_BYTES[dtype]  # of an activation
        self.weight_bytes = WEIGHT_BYTES[weights or dtype]
        # of the object, so that they end with it
        self._keys = functools.cache(self._find_keys)
        self._groups = functools.cache(self._find_groups)
        self._grid = functools.cache(self._find_grid)

    def time(self, call: KernelCall, phase: Phase, batch: int, seen: np.ndarray) -> BoundedTime:
        """Of one launch; raises LookupFailure. seen: decode: the contexts over which the mean is
        taken; prefill: one value, the tokens of each sequence."""
        tokens = 1 if phase == "decode" else int(seen[0])
        return self.answer(Asked(call, phase, batch, seen, batch * tokens))

    # -- what the rules of a kind may ask (operators/kernel.py: Times)

    def answer(self, question: Asked) -> BoundedTime:
        """By rows, else by the first rule of the kind that applies."""
        kind = question.call.kind
        answer = self.by_rows(question)
        try:
            for rule in kind.rules if answer is None else ():
                answer = rule.apply(self, question)
                if answer is not None:
                    break
        except LookupFailure:
            if not kind.columns(question.phase):
                raise  # the kind that this one is computed from is what can be measured
            answer = None
        if answer is None:
            raise LookupFailure(self._described(question))
        return answer

    def by_rows(self, question: Asked) -> BoundedTime | None:
        """By interpolation of rows with the call's matched values, or of measured neighbours in the
        columns `between`; None if there are none. If the other sizes are out of reach:
        LookupFailure, or None of a kind with `between`."""
        kind, name = question.call.kind, question.call.kind.rows_name(question.phase)
        shape = dict(question.call.shape)
        keys = self._keys(kind, name, tuple(shape[column] for column in kind.matched))
        if not keys:
            return None
        sizes = self._sizes(question)
        log_us, ruled = np.zeros(1), np.zeros(1, bool)
        for key, weight in keys:
            grid = self._grid(kind, name, key)
            us, rule = grid.at(**sizes)
            log_us, ruled = log_us + weight * np.log(us), ruled | rule
        answer = grid.mean(np.exp(log_us) if kind.between else us, ruled)
        if np.isnan(answer.us) or (kind.strict and ruled.any()):
            if kind.between or kind.strict:
                return None
            raise LookupFailure(self._described(question))
        return answer if len(keys) == 1 else answer.derived(HEADS_SPREAD)

    def measured(self, kind: KernelKind, phase: Phase) -> list[tuple[int, ...]]:
        """The measured values of the kind's `matched` columns, ascending."""
        return list(self._groups(kind, kind.rows_name(phase)))

    def inside(self, question: Asked) -> tuple[Asked, BoundedTime | None]:
        """With the nearest measured sizes, and its time; None for a cell without a row."""
        call, sizes = question.call, self._sizes(question)
        key = tuple(call[column] for column in call.kind.matched)
        grid = self._grid(call.kind, call.kind.rows_name(question.phase), key)
        near = {
            axis.name: float(np.clip(sizes[axis.name], axis.values[0], axis.values[-1]))
            for axis in grid.axes
        }
        question = replace(question, call=call.resized(**near), rows=near.get("m", question.rows))
        return question, self.by_rows(question)

    def moving(self, bytes_moved: float, flops: float = 0) -> BoundedTime:
        """The time of a kernel that the bandwidth limits, and that computes at half of the peak."""
        device = self.table.device
        bytes_s = device.bandwidth_bytes_s * device.bandwidth_share
        us = device.launch_us + 1e6 * bytes_moved / bytes_s + 2e6 * flops / device.peak_flops
        return around(us, SOURCE_SPREAD["roofline"], "roofline")

    # -- rows

    def _find_keys(
        self, kind: KernelKind, name: str, key: tuple[int, ...]
    ) -> list[tuple[tuple[int, ...], float]]:
        """Matched values of the rows that answer for `key`, with weights in log space."""
        groups = self._groups(kind, name)
        if not kind.between:
            return [(key, 1.0)] if key in groups else []
        first, second = (kind.matched.index(column) for column in kind.between)
        alike = {
            (other[first], other[second]): other
            for other in groups
            if all(other[i] == key[i] for i in range(len(key)) if i not in (first, second))
        }
        return [
            (alike[pair], weight) for pair, weight in head_mix(list(alike), key[first], key[second])
        ]

    def _sizes(self, question: Asked) -> dict[str, float | np.ndarray]:
        """Every column that a row may have."""
        return {
            **dict(question.call.shape),
            "batch": question.batch,
            "tokens": question.tokens,
            "context": question.seen,
            "m": question.rows,
        }

    def _described(self, question: Asked) -> str:
        """`conv_decode channels=96, conv_size=5 (measured: 4), batch=1`."""
        kind, name = question.call.kind, question.call.kind.rows_name(question.phase)
        sizes, measured = self._sizes(question), self.measured(kind, question.phase)
        parts = []
        for column in kind.columns(question.phase) or kind.shape:
            part = f"{column}={np.max(sizes[column]):.0f}"
            if column in kind.matched and column not in kind.between and measured:
                stated = sorted({values[kind.matched.index(column)] for values in measured})
                part += (
                    "" if sizes[column] in stated else f" (measured: {', '.join(map(str, stated))})"
                )
            parts.append(part)
        other_dtype = name in self.table.frames and not measured
        return f"{name} {', '.join(parts)}" + (f" in {self._dtype(kind)}" if other_dtype else "")

    def _dtype(self, kind: KernelKind) -> str:
        return self.weights if self.weights and kind.weights else self.dtype

    def _find_groups(self, kind: KernelKind, name: str) -> dict[tuple[int, ...], list[int]]:
        """Places of the rows in the dtype by the values of the matched columns, ascending."""
        rows = self.table.frames.get(name)
        if rows is None:
            return {}
        places: dict[tuple[int, ...], list[int]] = {}
        own = np.flatnonzero(rows["dtype"] == self._dtype(kind))
        matched = (rows[column].to_numpy()[own].tolist() for column in kind.matched)
        for place, *key in zip(own.tolist(), *matched, strict=True):
            places.setdefault(tuple(key), []).append(place)
        return {key: places[key] for key in sorted(places)}

    def _find_grid(self, kind: KernelKind, name: str, key: tuple[int, ...]) -> LogGrid:
        rows = self.table.frames[name].iloc[self._groups(kind, name)[key]]
        columns = kind.decode if kind.rows_name("decode") == name else kind.prefill
        axes = [column for column in columns if column not in kind.matched]
        power = kind.tokens_power(dict(zip(kind.matched, key, strict=True)))
        return LogGrid.from_rows(rows, axes, grow=kind.grow, tokens_power=power)


def head_mix(
    pairs: Sequence[tuple[int, int]],
    heads: int,
    kv_heads: int,
) -> list[tuple[tuple[int, int], float]]:
    """Log-space weights over measured (heads, kv_heads) pairs; none if they do not surround the
    given one.

    Key/value heads are interpolated at the next measured head counts below and above that cover
    them. A head count below is taken with at most as many key/value heads as it has heads.
    """
    covered: dict[int, list[tuple[int, float]]] = {}
    for count in sorted({h for h, _ in pairs}):
        mix = bracket(
            sorted(kv for h, kv in pairs if h == count),
            min(kv_heads, count) if count < heads else kv_heads,
        )
        if mix:
            covered[count] = mix
    return [
        ((count, kv), weight * share)
        for count, weight in bracket(list(covered), heads) or ()
        for kv, share in covered[count]
    ]


# -- whole operators -------------------------------------------------------------------------------


KEYS = ["operator", "hidden", "vocab"]


class OperatorTimes:
    """Answers by the rows in `dtype`."""

    def __init__(self, table: LatencyTable, dtype: str) -> None:
        self._rows = {
            (kind, *key): rows
            for kind in table.frames.keys() & OPERATOR_KINDS
            for key, rows in table.frames[kind][table.frames[kind]["dtype"] == dtype].groupby(
                KEYS, observed=True
            )
        }
        table.settings(texts(table, "stack", OPERATOR_KINDS, dtype))
        self._grid = functools.cache(self._find_grid)  # of the object, so that it ends with it

    def has(self, operator: str, hidden: int, vocab: int = 0) -> bool:
        """True if the operator was measured in any phase; then kernels are not composed for it."""
        return any((kind, operator, hidden, vocab) in self._rows for kind in OPERATOR_KINDS)

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
        rows = self._rows.get((kind, operator, hidden, vocab))
        if rows is None:
            return None
        length = "context" if kind == OPERATOR_DECODE else "tokens"
        rows = rows.assign(**{length: np.maximum(rows[length], 1)})
        return LogGrid.from_rows(rows, ["batch", length], grow="batch")
