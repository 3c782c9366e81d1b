"""KernelTimes: what one kernel call takes on a table's device, answered from rows by interpolation and stated rules.

Every rule that turns rows into a `derived` value is in RULES of answer.py; what no rule covers raises LookupFailure,
which the model turns into a MissingRowsError that names the operator and the command that measures it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from flashnas.latency.answer import (
    CHUNK,
    DECAYS,
    EXPERTS,
    GENERAL_CHUNK,
    PADDED_HEAD,
    SPREAD,
    STATE,
    STEPWISE,
    WINDOW,
    Answer,
    from_grid,
    roofline,
    source_of,
)
from flashnas.latency.grid import LogGrid, bracket
from flashnas.latency.schema import RECURRENT
from flashnas.latency.table import LatencyTable
from flashnas.operators import KernelCall, Phase

STEPWISE_TOKENS = 512  # longest prefill that is answered by decode steps


class LookupFailure(Exception):
    """No row and no rule answers; the message names kind and shape."""


class KernelTimes:
    """Answers kernel calls from `table`. `dtype_bytes` is the size of an activation."""

    def __init__(self, table: LatencyTable, dtype: str, dtype_bytes: int) -> None:
        self.table, self.dtype, self.dtype_bytes = table, dtype, dtype_bytes

    def answer(self, call: KernelCall, phase: Phase, batch: int, seen: np.ndarray) -> Answer:
        """One call for `batch` sequences. decode: `seen` are the contexts over which the mean is taken. prefill:
        `seen` holds the number of tokens."""
        tokens = 1 if phase == "decode" else int(seen[0])
        if call.kind == "pointwise":
            return self.pointwise(call["elements"] * batch * tokens)
        if call.kind == "gemm":
            return self.gemm(batch * tokens, call["n"], call["k"])
        if call.kind == "experts":
            return self._experts(call, batch * tokens)
        name = call.kind.removesuffix(f"_{phase}")
        if name == "attention":
            return self._attention(call, phase, batch, seen)
        if name == "conv":
            grid, source = self._grid(call.kind, (call["conv_size"],))
            answer = from_grid(*grid.at(channels=call["channels"], batch=batch, tokens=tokens), source)
            return self._checked(answer, f"{call.kind} channels={call['channels']}, batch={batch}, tokens={tokens}")
        if name in RECURRENT:
            return self._recurrent(name, call, phase, batch, tokens)
        if name == "selective_scan":
            return self._selective_scan(call, phase, batch, tokens)
        raise LookupFailure(f"{call.kind} (no rule knows this kind)")

    def pointwise(self, elements: float) -> Answer:
        device = self.table.device
        per_s = device.bandwidth_bytes_s * device.bandwidth_share
        return roofline(device.launch_us + 1e6 * elements * self.dtype_bytes / per_s)

    def gemm(self, m: float, n: float, k: int) -> Answer:
        grid, source = self._grid("gemm", ())
        return self._checked(from_grid(*grid.at(m=m, n=n, k=k), source), f"gemm m={m:.0f}, n={n:.0f}, k={k}")

    def _experts(self, call: KernelCall, m: int) -> Answer:
        hit = call["experts"] * (1 - (1 - call["active"] / call["experts"]) ** m)
        return self.gemm(m * call["active"] / hit, hit * call["n"], call["k"]).derived(EXPERTS)

    # -- attention -----------------------------------------------------------------------------------------------

    def _attention(self, call: KernelCall, phase: Phase, batch: int, seen: np.ndarray) -> Answer:
        kind, window = call.kind, call["window"]
        measured = self._slices(kind)
        dims = sorted({dim for dim, _ in measured})
        dim = next((d for d in dims if d >= call["head_dim"]), None)
        if dim is None:
            raise LookupFailure(f"{kind} head_dim={call['head_dim']} (measured: {_list(dims)})")
        answer = self._attention_slice(kind, (dim, window), call, batch, seen)
        if answer is None and window:
            answer = self._windowed(kind, phase, dim, call, batch, seen)
        if answer is None:
            raise LookupFailure(f"{kind} heads={call['heads']}, kv_heads={call['kv_heads']}, head_dim={dim}"
                                f", batch={batch}, up to {int(seen.max())} tokens")
        return answer if dim == call["head_dim"] else answer.derived(PADDED_HEAD)

    def _windowed(self, kind: str, phase: Phase, dim: int, call: KernelCall, batch: int,
                  seen: np.ndarray) -> Answer | None:
        window = call["window"]
        answer = self._attention_slice(kind, (dim, 0), call, batch, np.minimum(seen, window))
        if answer is None or seen.max() <= window:
            return answer
        if phase == "prefill":  # scores of a window sliding over all tokens, against those of its first fill
            tokens, first = int(seen[0]), window * (window + 1) / 2
            answer = answer.times((first + (tokens - window) * window) / first)
        return answer.derived(WINDOW)

    def _attention_slice(self, kind: str, slice_: tuple[int, int], call: KernelCall, batch: int,
                         seen: np.ndarray) -> Answer | None:
        grids = self._slices(kind).get(slice_)
        mix = head_mix(tuple(grids), call["heads"], call["kv_heads"]) if grids else None
        if not grids or not mix:
            return None
        log_us, ruled, source = np.zeros((len(seen), 3)), np.zeros(len(seen), bool), "imported"
        for pair, weight in mix:
            grid, source = self._grid(kind, (*pair, *slice_))
            us, rule = grid.at(batch=batch, context=seen, tokens=seen)
            log_us, ruled = log_us + weight * np.log(us), ruled | rule
        answer = from_grid(np.exp(log_us), ruled, source)
        return None if np.isnan(answer.us) else answer

    @functools.cache  # noqa: B019 - lives as long as the table it belongs to
    def _slices(self, kind: str) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """(head_dim, window) -> measured (heads, kv_heads)."""
        result: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for heads, kv_heads, dim, window in self._groups(kind):
            result.setdefault((dim, window), []).append((heads, kv_heads))
        return result

    # -- recurrent kernels ---------------------------------------------------------------------------------------

    def _recurrent(self, name: str, call: KernelCall, phase: Phase, batch: int, tokens: int) -> Answer:
        dims = (call["key_dim"], call["value_dim"])
        asked = f"{call.kind} heads={call['heads']}, key_dim={dims[0]}, value_dim={dims[1]}, batch={batch}"
        for source_name in dict.fromkeys((name, "gated_delta_rule")):
            kind = f"{source_name}_{phase}"
            groups = self._groups(kind)
            if not groups:
                continue
            same = source_name == name and dims in groups
            found = dims if same else min(groups, key=lambda group: abs(np.log(group[0] * group[1] / np.prod(dims))))
            heads = call["heads"] * dims[0] * dims[1] / (found[0] * found[1])
            grid, source = self._grid(kind, found)
            answer = from_grid(*grid.at(heads=heads, batch=batch, tokens=tokens), source)
            answer = self._checked(answer, f"{asked}, tokens={tokens}")
            if not same and name == "rwkv7" and phase == "prefill":
                answer = answer.times(GENERAL_CHUNK)
            return answer if same else answer.derived(STATE if phase == "decode" else CHUNK)
        if phase == "prefill" and tokens <= STEPWISE_TOKENS:
            step = KernelCall(f"{name}_decode", call.shape, call.label)
            answer = self._recurrent(name, step, "decode", batch, 1)
            return answer.times(tokens).derived(STEPWISE, upper=0.0)
        raise LookupFailure(f"{asked}, tokens={tokens}")

    def _selective_scan(self, call: KernelCall, phase: Phase, batch: int, tokens: int) -> Answer:
        channels, state = call["channels"], call["state"]
        asked = f"{call.kind} channels={channels}, state={state}, batch={batch}, tokens={tokens}"
        if (state,) in self._groups(call.kind):
            grid, source = self._grid(call.kind, (state,))
            return self._checked(from_grid(*grid.at(channels=channels, batch=batch, tokens=tokens), source), asked)
        if phase == "prefill" and tokens > STEPWISE_TOKENS:
            raise LookupFailure(asked)
        shape = (("heads", 1), ("key_dim", state), ("value_dim", channels))
        step = self._recurrent("gated_delta_rule", KernelCall("selective_scan_decode", shape, call.label), "decode",
                               batch, 1).derived(0.0, upper=DECAYS)
        return step if phase == "decode" else step.times(tokens).derived(STEPWISE, upper=0.0)

    # -- grids ---------------------------------------------------------------------------------------------------

    def _checked(self, answer: Answer, asked: str) -> Answer:
        if np.isnan(answer.us):
            raise LookupFailure(asked)
        return answer

    @functools.cache  # noqa: B019
    def _rows(self, kind: str) -> pd.DataFrame:
        rows = self.table.frames[kind]
        same = (rows["dtype"] == self.dtype).to_numpy()
        return rows if same.all() else rows[same]

    @functools.cache  # noqa: B019
    def _groups(self, kind: str) -> dict[tuple[int, ...], np.ndarray]:
        """Positions in `_rows` by the columns that are not interpolated on a grid."""
        if kind not in self.table.kinds:
            return {}
        rows = self._rows(kind)
        by = _GROUPED.get(kind.rsplit("_", 1)[0], [])
        if not by or not len(rows):
            return {(): np.arange(len(rows))} if len(rows) else {}
        keys = rows[by].to_numpy(np.int64)
        codes = np.ravel_multi_index(tuple(keys.T), tuple(keys.max(axis=0) + 1))  # one number sorts faster than a row
        order = np.argsort(codes, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        return {tuple(map(int, keys[part[0]])): part for part in parts}

    @functools.cache  # noqa: B019
    def _grid(self, kind: str, key: tuple[int, ...]) -> tuple[LogGrid, str]:
        groups = self._groups(kind)
        if key not in groups:
            shape = ", ".join(f"{name}={value}" for name, value in
                              zip(_GROUPED.get(kind.rsplit("_", 1)[0], []), key, strict=True))
            raise LookupFailure(f"{kind} {shape}".rstrip() + f" ({self.dtype})")
        rows = self._rows(kind).iloc[groups[key]]
        axes = [axis for axis in _AXES[kind.rsplit("_", 1)[0]] if axis in rows]
        source = source_of(rows)
        grid = LogGrid.from_rows(rows, axes, grow="n" if kind == "gemm" else "batch", spread=SPREAD[source],
                                 quadratic=kind == "attention_prefill" and key[3] == 0)
        return grid, source


_GROUPED = {"attention": ["heads", "kv_heads", "head_dim", "window"], "conv": ["conv_size"],
            "selective_scan": ["state"],
            **{name: ["key_dim", "value_dim"] for name in RECURRENT}}
_AXES = {"gemm": ["m", "n", "k"], "attention": ["batch", "context", "tokens"], "conv": ["channels", "batch", "tokens"],
         "selective_scan": ["channels", "batch", "tokens"],
         **{name: ["heads", "batch", "tokens"] for name in RECURRENT}}


@functools.lru_cache(maxsize=4096)
def head_mix(pairs: Sequence[tuple[int, int]], heads: int, kv_heads: int) -> list[tuple[tuple[int, int], float]] | None:
    """Log-space weights over measured (heads, kv_heads) pairs; None if they do not surround the asked one.

    Key/value heads are interpolated at the next measured head counts below and above that cover them; a head count
    below is taken with at most as many key/value heads as it has heads.
    """
    covered: dict[int, list[tuple[int, float]]] = {}
    for count in sorted({h for h, _ in pairs}):
        mix = bracket(sorted(kv for h, kv in pairs if h == count), min(kv_heads, count) if count < heads else kv_heads)
        if mix:
            covered[count] = mix
    outer = bracket(list(covered), heads)
    if outer is None:
        return None
    return [((count, kv), weight * share) for count, weight in outer for kv, share in covered[count]]


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"
