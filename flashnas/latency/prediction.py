"""LatencyModel: an architecture's latency on a table's device, as the sum of its operators' times.

A row of the whole operator answers if there is one; otherwise its kernels are looked up one by one. The cost
of an operator is computed once for each width, number of meta tokens and batch: many architectures of one
space cost a few additions each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import MissingRowsError
from flashnas.latency import metrics
from flashnas.latency.bounded_time import BoundedTime
from flashnas.latency.corrections import KernelCorrection, ModelCorrection, Stack, choose_stack
from flashnas.latency.estimate import Estimate
from flashnas.latency.kernel_times import KernelTimes, LookupFailure
from flashnas.latency.memory import largest_batch, memory_bytes
from flashnas.latency.table import LatencyTable, shipped_tables, table_state
from flashnas.latency.whole_operators import OperatorTimes
from flashnas.latency.workload import DTYPE_BYTES, MATRICES_ONLY, WEIGHT_BYTES, Workload, load_workload
from flashnas.operators import KernelCall, OperatorSpec, Phase
from flashnas.operators.kernel import PHASES, Load
from flashnas.operators.kernel_kinds import KERNEL_KINDS, gemm, pointwise

CONTEXT_POINTS = 4096  # contexts over which a generation step is averaged; all of them up to this many tokens


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel, or a whole operator, in one phase; times over the whole request, all `generated_tokens`
    steps."""

    phase: Phase
    kernel: str
    label: str
    total: BoundedTime


@dataclass(frozen=True, slots=True)
class Cost:
    """An operator, the embedding or the head: microseconds over the whole request."""

    parts: tuple[Part, ...]
    prefill_us: float
    decode_us: float

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Cost:
        parts = tuple(parts)
        prefill, decode = (sum(part.total.us for part in parts if part.phase == phase)
                           for phase in ("prefill", "decode"))
        return cls(parts, prefill, decode)


class LatencyModel:
    """Estimates for one table and one workload.

    Args:
        table: or its name or folder.
        workload: or its name or text.
        stack: the kernels that serve an operator, "fused" or "unfused" (corrections.py); None: the one for
            which the table was calibrated.
        calibrated: apply the table's corrections to whole models, shown as `calibration` entries of the
            breakdown.
        mode: of a table with rows in several modes; None: the table's default.

    Raises:
        TableError, WorkloadError: the table or the workload cannot be read.
        ConfigError: an unknown stack.
        MissingRowsError: the table has no rows in the workload's dtype.
    """

    def __init__(self, table: LatencyTable | str, workload: Workload | str, *,
                 stack: Stack | None = None, calibrated: bool = True, mode: str | None = None) -> None:
        self.table = LatencyTable.load(table).only(mode)
        self.workload = load_workload(workload)
        self.stack = choose_stack(self.table.calibration, stack)
        dtypes = self.table.dtypes
        self.dtype = self.workload.dtype
        if self.dtype == "auto":
            self.dtype = "bfloat16" if "bfloat16" in dtypes or not dtypes else dtypes[0]
        if self.dtype in MATRICES_ONLY:
            self._check_matrices()
        elif self.dtype not in dtypes:
            raise MissingRowsError(f"table {self.table.name} has no rows in {self.dtype}; it has:"
                                   f" {', '.join(dtypes) or 'none'}; measure them: {self._command()}")
        self.dtype_bytes = DTYPE_BYTES[self.dtype]
        rows = MATRICES_ONLY.get(self.dtype, self.dtype)
        self.kernels = KernelTimes(self.table, rows, self.dtype_bytes)  # of embedding and head
        self.operator_kernels = (self.kernels if rows == self.dtype else
                                 KernelTimes(self.table, rows, self.dtype_bytes, self.dtype))
        self.operators = OperatorTimes(self.table, self.dtype)
        self.cache_type = self.operators.settings.get("cache_type", "")
        constants = self.table.calibration if calibrated else {}
        self.kernel_correction = KernelCorrection.of(constants, self.stack)
        self.model_corrections: dict[Phase, ModelCorrection] = {
            phase: ModelCorrection.of(constants, self.table.default_mode, phase) for phase in PHASES}
        self._costs: dict[tuple[OperatorSpec, int, int, int], Cost] = {}
        self._fixed: dict[tuple[int, int, int, int], tuple[Cost, Cost]] = {}

    # -- figures

    def estimate(self, architecture: Architecture) -> Estimate:
        """All figures with breakdown; raises MissingRowsError if the table cannot answer, BudgetError if
        batch "max" finds no room."""
        a, batch = architecture, self.batch(architecture)
        embedding, head = self._fixed_costs(a, batch)
        named = [("embedding", -1, embedding),
                 *((spec.kind, i, self._cost(spec, a, batch)) for i, spec in enumerate(a.operators)),
                 ("head", -1, head)]
        ttft_ms, tpot_ms, latency_ms = self._figures(cost for _, _, cost in named)
        bounds = self._bounds([part for _, _, cost in named for part in cost.parts], batch)
        breakdown: list[dict[str, Any]] = [
            {"operator": name, "index": index, "phase": part.phase, "kernel": part.kernel,
             "label": part.label, "source": part.total.source, "ms": part.total.us / 1000,
             "share": part.total.us / 1000 / latency_ms}
            for name, index, cost in named for part in cost.parts]
        sources: dict[str, float] = {}
        for entry in breakdown:
            sources[entry["source"]] = sources.get(entry["source"], 0.0) + entry["share"]
        w = self.workload
        return Estimate(
            notation=a.notation, hash=a.hash, params=a.params, ttft_ms=ttft_ms, tpot_ms=tpot_ms,
            latency_ms=latency_ms, lower_ms=min(bounds["latency_ms"][0], latency_ms),
            upper_ms=max(bounds["latency_ms"][1], latency_ms), batch=batch, bounds=bounds,
            throughput_tok_s=metrics.throughput_tok_s(ttft_ms, tpot_ms, batch, w.prompt_tokens,
                                                      w.generated_tokens),
            memory_gb=memory_bytes(a, w, batch, self.dtype, cache_type=self.cache_type) / 1e9,
            workload=w.name, table=self.table.name,
            breakdown=tuple(breakdown), sources=dict(sorted(sources.items(), key=lambda item: -item[1])),
            weights=self.dtype,
            notes=tuple(filter(None, [self.kernel_correction.note(batch) if w.generated_tokens else None,
                                      self._note_on_weights()])))

    def latencies(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """latency_ms of each, shape [N]; the same numbers as `estimate` gives, without the breakdown."""
        result = np.empty(len(architectures))
        costs_by_id: dict[tuple[int, int, int, int], dict[int, Cost]] = {}
        for i, a in enumerate(architectures):
            batch = self.batch(a)
            by_id = costs_by_id.setdefault((a.hidden, a.vocab, a.meta_tokens, batch), {})
            embedding, head = self._fixed_costs(a, batch)
            costs = [embedding]
            for spec in a.operators:
                cost = by_id.get(id(spec))
                if cost is None:
                    cost = by_id[id(spec)] = self._cost(spec, a, batch)
                costs.append(cost)
            result[i] = self._figures([*costs, head])[2]
        return result

    def batch(self, architecture: Architecture) -> int:
        """The workload's batch; for "max" the largest that fits the device's memory."""
        if self.workload.batch != "max":
            return self.workload.batch
        return largest_batch(architecture, self.workload, self.table.device, self.dtype, self.cache_type)

    def _note_on_weights(self) -> str | None:
        if self.operator_kernels is self.kernels:
            return None
        corrected = "; the table's corrections come from models in bfloat16" if self.kernel_correction != (
            KernelCorrection()) else ""
        return (f"the matrices of the operators have weights in {self.dtype}, and their rows include the"
                " conversion of the activations; embedding, head, attention, convolutions and recurrences are"
                f" in {self.kernels.dtype}{corrected}")

    # -- costs

    def _figures(self, costs: Iterable[Cost]) -> tuple[float, float, float]:
        """-> ttft_ms, tpot_ms, latency_ms."""
        prefill_us = decode_us = 0.0
        for cost in costs:
            prefill_us += cost.prefill_us
            decode_us += cost.decode_us
        generated = self.workload.generated_tokens
        ttft_ms, tpot_ms = prefill_us / 1000, decode_us / 1000 / generated if generated else 0.0
        return ttft_ms, tpot_ms, metrics.latency_ms(ttft_ms, tpot_ms, generated)

    def _bounds(self, parts: Sequence[Part], batch: int) -> dict[str, list[float]]:
        """Figure -> [lower, upper], from the bounds of all parts added up."""
        w = self.workload
        edges = []
        for bound in ("lower_us", "upper_us"):
            ttft_us, decode_us = (sum(getattr(part.total, bound) for part in parts if part.phase == phase)
                                  for phase in ("prefill", "decode"))
            edges.append((ttft_us / 1000, decode_us / 1000 / w.generated_tokens if w.generated_tokens
                          else 0.0))
        throughput = [metrics.throughput_tok_s(*edge, batch, w.prompt_tokens, w.generated_tokens)
                      for edge in edges]
        return {"ttft_ms": [ttft for ttft, _ in edges], "tpot_ms": [tpot for _, tpot in edges],
                "latency_ms": [metrics.latency_ms(*edge, w.generated_tokens) for edge in edges],
                "throughput_tok_s": sorted(throughput)}

    def phases(self, meta_tokens: int) -> list[tuple[Phase, np.ndarray, int]]:
        """(phase, tokens or contexts seen, how often it runs). Meta tokens are read with the prompt and stay
        in the cache. Without a prompt and meta tokens there is no prefill."""
        phases: list[tuple[Phase, np.ndarray, int]] = []
        first = self.workload.prompt_tokens + meta_tokens
        if first:
            phases.append(("prefill", np.array([first]), 1))
        generated = self.workload.generated_tokens
        if generated:
            points = np.linspace(first + 1, first + generated, min(generated, CONTEXT_POINTS))
            contexts = np.unique(points.round())
            phases.append(("decode", contexts, generated))
        return phases

    def _cost(self, spec: OperatorSpec, a: Architecture, batch: int) -> Cost:
        key = (spec, a.hidden, a.meta_tokens, batch)
        if key not in self._costs:
            self._costs[key] = Cost.of(part for phase, seen, times in self.phases(a.meta_tokens)
                                       for part in self._operator(spec, a.hidden, phase, batch, seen, times))
        return self._costs[key]

    def _operator(self, spec: OperatorSpec, hidden: int, phase: Phase, batch: int, seen: np.ndarray,
                  times: int) -> list[Part]:
        name = str(spec.resolved(hidden))
        if self.operators.has(name, hidden):
            answer = self.operators.answer(name, hidden, phase, batch, seen)
            if answer is None:
                raise self._missing(name, hidden, _rows_asked(f"operator_{phase}", batch, seen))
            return self._whole(phase, f"operator_{phase}", spec.name, answer, times, operators=1,
                               megabytes=self.megabytes(spec, hidden, phase, batch, seen))
        return self._composed(name, hidden, self.launched(spec, hidden, phase), phase, batch, seen, times,
                              self.operator_kernels)

    def launched(self, spec: OperatorSpec, hidden: int, phase: Phase) -> list[KernelCall]:
        """The kernels that serve an operator in the stack."""
        calls = spec.kernels(hidden, phase)
        return ([call for call in calls if not call.fusable] if self.stack == "fused" else
                [part for call in calls for part in call.split()])

    def bytes_us(self, call: KernelCall, batch: int, seen: np.ndarray) -> float:
        """What the bytes of a kernel take in a decode step at the device's bandwidth."""
        load = Load("decode", batch, 1, float(seen.mean()))
        return 1e6 * call.kind.bytes_moved(call, load, self.dtype_bytes) / self.table.device.bandwidth_bytes_s

    def _whole(self, phase: Phase, kernel: str, label: str, answer: BoundedTime, times: int, *,
               operators: int = 0, models: int = 0, megabytes: float = 0.0) -> list[Part]:
        """The row of a whole operator, and what the table's correction adds to it (corrections.py)."""
        correction = self.model_corrections[phase]
        part = Part(phase, kernel, label, answer.times(times * correction.scale))
        added = correction.added(operators=operators, models=models, megabytes=megabytes)
        return [part, Part(phase, "calibration", "calibration", added.times(times))] if added else [part]

    def megabytes(self, spec: OperatorSpec, hidden: int, phase: Phase, batch: int, seen: np.ndarray) -> float:
        """What an operator reads, in 10^6 bytes: its weights, and in a decode step its state at the mean
        context."""
        state = spec.cache_bytes(hidden, int(seen.mean()), self.dtype_bytes) if phase == "decode" else 0
        return (spec.params(hidden) * WEIGHT_BYTES[self.dtype] + batch * state) / 1e6

    def _composed(self, operator: str, hidden: int, calls: Sequence[KernelCall], phase: Phase, batch: int,
                  seen: np.ndarray, times: int, kernels: KernelTimes) -> list[Part]:
        """One part per kernel, and one for the table's correction of a decode step."""
        try:
            launches = [kernels.time(call, phase, batch, seen) for call in calls]
        except LookupFailure as failure:
            raise self._missing(operator, hidden, str(failure)) from None
        parts = [Part(phase, call.kind.rows_name(phase), call.label, launch.times(times))
                 for call, launch in zip(calls, launches, strict=True)]
        added = None if phase == "prefill" else self.kernel_correction.added(
            calls, launches, batch, lambda call: self.bytes_us(call, batch, seen))
        return parts + ([Part(phase, "calibration", "calibration", added.times(times))] if added else [])

    def _fixed_costs(self, a: Architecture, batch: int) -> tuple[Cost, Cost]:
        """-> embedding, head (with the final norm and the choice of the token). Reading a prompt needs the
        head once per sequence, for its last position; meta tokens alone do not."""
        key = (a.hidden, a.vocab, a.meta_tokens, batch)
        if key not in self._fixed:
            embedding, head = [], []
            for phase, seen, times in self.phases(a.meta_tokens):
                embedding += self._fixed_parts("embedding", a, phase, batch, seen, times)
                if phase == "decode" or self.workload.prompt_tokens:
                    parts = self._fixed_parts("head", a, "decode", batch, np.ones(1), times, shown=phase)
                    head += [replace(part, phase=phase) for part in parts
                             if phase == "decode" or part.kernel != "calibration"]
            self._fixed[key] = Cost.of(embedding), Cost.of(head)
        return self._fixed[key]

    def _fixed_parts(self, name: str, a: Architecture, phase: Phase, batch: int, seen: np.ndarray,
                     times: int, shown: Phase | None = None) -> list[Part]:
        """Embedding or head. `shown`: the phase to which the time belongs, if it is not that of the rows."""
        if self.operators.has(name, a.hidden, a.vocab):
            answer = self.operators.answer(name, a.hidden, phase, batch, seen, a.vocab)
            if answer is None:
                raise self._missing(name, a.hidden, _rows_asked(f"operator_{phase}", batch, seen))
            return self._whole(shown or phase, f"operator_{phase}", name, answer, times,
                               models=int(name == "embedding"))
        calls = ([pointwise("lookup", 2 * a.hidden)] if name == "embedding" else
                 [pointwise("final_norm", 2 * a.hidden), gemm("head", n=a.vocab, k=a.hidden),
                  pointwise("sampling", a.vocab)])
        return self._composed(name, a.hidden, calls, phase, batch, seen, times, self.kernels)

    # -- errors

    def _check_matrices(self) -> None:
        """Raise MissingRowsError unless the table has products with weights of the workload's type."""
        if not has_weights(self.table, self.dtype):
            others = [name for name in shipped_tables() if has_weights(LatencyTable.load(name), self.dtype)]
            raise MissingRowsError(f"table {self.table.name} has no matrix products with weights in"
                                   f" {self.dtype}; shipped tables with them: {', '.join(others) or 'none'}")

    def _missing(self, operator: str, hidden: int, rows: str) -> MissingRowsError:
        return MissingRowsError(f"table {self.table.name} cannot answer operator {operator!r} at hidden size"
                                f" {hidden} for workload {self.workload.name}: no {rows}; measure it:"
                                f" {self._command()}")

    def _command(self) -> str:
        return (f"flashnas profile --space SPACE --workload {self.workload.name}"
                f" --device {self.table.device.platform}")


def has_weights(table: LatencyTable, dtype: str) -> bool:
    """Whether a table has rows of products with weights of that type."""
    return any((table.frames[name]["dtype"] == dtype).any() for kind in KERNEL_KINDS.values() if kind.weights
               for name in {kind.rows_name(phase) for phase in PHASES} if name in table.frames)


def _rows_asked(kind: str, batch: int, seen: np.ndarray) -> str:
    return f"{kind} rows for batch {batch} and {int(seen.min())} to {int(seen.max())} tokens"


def model_of(table: LatencyTable | str | Path, workload: Workload, *, stack: Stack | None = None,
             mode: str | None = None) -> LatencyModel:
    """A LatencyModel. Of a table that is named, the next call gets the same one with all that it has looked
    up, until a file of the table changes."""
    if isinstance(table, LatencyTable):
        return LatencyModel(table, workload, stack=stack, mode=mode)
    return _named(table_state(table), workload, stack, mode)


@functools.lru_cache(maxsize=8)
def _named(state: tuple[Path, Path, tuple[Any, ...]], workload: Workload, stack: Stack | None,
           mode: str | None) -> LatencyModel:
    return LatencyModel(str(state[1]), workload, stack=stack, mode=mode)
