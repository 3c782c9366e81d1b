"""LatencyModel: an architecture's latency on a table's device, as the sum of its operators' times.

A row of the whole operator answers if there is one; otherwise its kernels are looked up one by one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, MissingRowsError
from flashnas.latency.calibration import OWN, Calibration
from flashnas.latency.largest_batch import largest_batch
from flashnas.latency.lookup import KernelTimes, LookupFailure
from flashnas.latency.metrics import (
    EMBEDDING,
    HEAD,
    HOST,
    Cost,
    Estimate,
    Part,
    Request,
    breakdown,
    source_shares,
)
from flashnas.latency.operator_times import OperatorTimes
from flashnas.latency.schema import OPERATOR_KINDS
from flashnas.latency.table import LatencyTable, has_weights, shipped_tables, table_state
from flashnas.latency.workload import (
    DTYPE_BYTES,
    ENGINE,
    MATRICES_ONLY,
    Workload,
    load_workload,
    memory_bytes,
)
from flashnas.operators import KernelCall, OperatorSpec, Phase
from flashnas.operators.kernel import Load
from flashnas.operators.kernel_kinds import GEMM, pointwise

# contexts over which a generation step is averaged; all of them up to this many tokens
CONTEXT_POINTS = 4096


class Correction(Protocol):
    """By observed times (`flashnas.observations.correction`). observed: program, device, times, factor
    and digest, as of an `Estimate`."""

    @property
    def observed(self) -> Mapping[str, Any]: ...

    def latencies(
        self, model: LatencyModel, architectures: Sequence[Architecture]
    ) -> np.ndarray: ...

    def estimate(self, model: LatencyModel, a: Architecture, before: Estimate) -> Estimate: ...


class LatencyModel:
    """Estimates for one table and one workload, or their names. The cost of an operator is computed
    once for each width, number of meta tokens and batch: many architectures of one space cost a few
    additions each.

    Args:
        calibration: whose whole models the estimates are of, "engine" or "paper" (calibration.py);
            a table without one of that name answers by its rows. A Calibration of one's own, such
            as `Calibration(stack="unfused")`, has constants that the table does not state.
        mode: of a table with rows in several modes; None: the table's default.
        correction: of all times, by observed ones.

    Raises:
        TableError, WorkloadError: the table or the workload cannot be read.
        MissingRowsError: the table has no rows in the workload's dtype.
    """

    def __init__(
        self,
        table: LatencyTable | str,
        workload: Workload | str,
        *,
        calibration: str | Calibration = ENGINE,
        mode: str | None = None,
        correction: Correction | None = None,
    ) -> None:
        self.table = LatencyTable.load(table).only(mode)
        self.correction = correction
        self.workload = load_workload(workload)
        if isinstance(calibration, str):
            calibration = self.table.calibrated(calibration)
        self.calibration = calibration
        dtypes = self.table.dtypes
        self.dtype = self.workload.dtype
        if self.dtype == "auto":
            self.dtype = "bfloat16" if "bfloat16" in dtypes or not dtypes else dtypes[0]
        if self.dtype in MATRICES_ONLY:
            self._check_matrices()
        elif self.dtype not in dtypes:
            raise MissingRowsError(
                f"table {self.table.name} has no rows in {self.dtype}; it has:"
                f" {', '.join(dtypes) or 'none'}; measure them: {self._command()}"
            )
        self.dtype_bytes = DTYPE_BYTES[self.dtype]
        rows = MATRICES_ONLY.get(self.dtype, self.dtype)
        self.kernels = KernelTimes(self.table, rows)  # of embedding and head
        self.operator_kernels = (
            self.kernels if rows == self.dtype else KernelTimes(self.table, rows, self.dtype)
        )
        self.operators, self.cache_type = None, ""
        if self.table.frames.keys() & OPERATOR_KINDS:
            self.operators = OperatorTimes(self.table, self.dtype)
            self.cache_type = self.operators.settings.get("cache_type", "")
        self._costs: dict[tuple[OperatorSpec | str, int, int, int, int], Cost] = {}

    def at(self, workload: Workload | str) -> LatencyModel:
        """The same table, calibration and correction under another workload."""
        return LatencyModel(
            self.table, workload, calibration=self.calibration, correction=self.correction
        )

    def corrected_by(self, correction: Correction | None) -> LatencyModel:
        """The same model, with all that it has looked up, by another correction, or none."""
        other = copy.copy(self)
        other.correction = correction
        return other

    @property
    def observed(self) -> Mapping[str, Any]:
        """Of the correction."""
        return {} if self.correction is None else self.correction.observed

    # -- figures

    def estimate(self, architecture: Architecture) -> Estimate:
        """All figures with breakdown; raises MissingRowsError if the table cannot answer,
        BudgetError if batch "max" finds no room."""
        by_table = self._by_table(architecture)
        if self.correction is None:
            return by_table
        return self.correction.estimate(self, architecture, by_table)

    def _by_table(self, architecture: Architecture) -> Estimate:
        a, w, batch = architecture, self.workload, self.batch(architecture)
        request, costs = next(self.requests([a]))
        places = ((spec.kind, i) for i, spec in enumerate(a.operators))
        named = [
            (*place, cost)
            for place, cost in zip(((EMBEDDING, -1), *places, (HEAD, -1)), costs, strict=True)
        ]
        named.append((HOST, -1, request.host()))
        values, bounds = request.figures(named, batch)
        latency_ms = values["latency_ms"]
        entries = breakdown(named, latency_ms)
        notes = (
            self.calibration.note(batch) if w.generated_tokens else None,
            self._note_on_weights(),
        )
        return Estimate(
            **values,
            notation=a.notation,
            hash=a.hash,
            params=a.params,
            active_params=a.active_params,
            batch=batch,
            bounds=bounds,
            lower_ms=min(bounds["latency_ms"][0], latency_ms),
            upper_ms=max(bounds["latency_ms"][1], latency_ms),
            memory_gb=self.memory_gb(a),
            workload=w.name,
            table=self.table.name,
            calibration=self.calibration.name,
            weights=self.dtype,
            breakdown=tuple(entries),
            sources=source_shares(entries),
            notes=tuple(note for note in notes if note),
            observed={},
        )

    def memory_gb(self, architecture: Architecture) -> float:
        """Under the workload; a batch "max" that finds no room counts as 1."""
        try:
            batch = self.batch(architecture)
        except BudgetError:
            batch = 1
        w, cache_type = self.workload, self.cache_type
        return memory_bytes(architecture, w, batch, self.dtype, cache_type=cache_type) / 1e9

    def latencies(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """latency_ms of each, shape [N]; the same numbers as `estimate` gives, without the
        breakdown.
        """
        if self.correction is not None:
            return self.correction.latencies(self, architectures)
        return np.array([request.latency_ms for request, _ in self.requests(architectures)])

    def requests(
        self, architectures: Sequence[Architecture]
    ) -> Iterator[tuple[Request, list[Cost]]]:
        """The request of each, and the costs that it consists of: of the embedding, the operators
        and the head."""
        costs_by_id: dict[tuple[int, int, int, int], dict[int, Cost]] = {}
        for a in architectures:
            batch = self.batch(a)
            by_id = costs_by_id.setdefault((a.hidden, a.vocab, a.meta_tokens, batch), {})
            specs: tuple[OperatorSpec | str, ...] = (EMBEDDING, *a.operators, HEAD)
            costs = []
            for spec in specs:
                cost = by_id.get(id(spec))
                if cost is None:
                    cost = by_id[id(spec)] = self._cost(spec, a, batch)
                costs.append(cost)
            yield Request.of(self.calibration, self.workload, costs), costs

    def batch(self, architecture: Architecture) -> int:
        """The workload's batch; for "max" the largest that fits the device's memory."""
        if self.workload.batch != "max":
            return self.workload.batch
        return largest_batch(
            architecture, self.workload, self.table.device, self.dtype, self.cache_type
        )

    def _note_on_weights(self) -> str | None:
        if self.operator_kernels is self.kernels:
            return None
        corrected = (
            "; the calibration comes from models in bfloat16"
            if self.calibration.name != OWN
            else ""
        )
        return (
            f"the matrices of the operators have weights in {self.dtype}, and their rows include"
            " the conversion of the activations; embedding, head, attention, convolutions and"
            f" recurrences are in {self.kernels.dtype}{corrected}"
        )

    # -- costs

    def phases(self, meta_tokens: int) -> list[tuple[Phase, np.ndarray, int]]:
        """(phase, tokens or contexts seen, how often it runs). Meta tokens are read with the prompt
        and stay in the cache."""
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

    def _cost(self, spec: OperatorSpec | str, a: Architecture, batch: int) -> Cost:
        """Of an operator, of EMBEDDING or HEAD. Reading a prompt needs the head once per sequence,
        for its last position; meta tokens alone do not."""
        key = (spec, a.hidden, a.vocab if isinstance(spec, str) else 0, a.meta_tokens, batch)
        if key not in self._costs:
            parts = []
            for phase, seen, times in self.phases(a.meta_tokens):
                if spec != HEAD:
                    parts += self._parts(spec, a, batch, phase, seen, times, phase)
                elif phase == "decode" or self.workload.prompt_tokens:
                    parts += self._parts(spec, a, batch, "decode", np.ones(1), times, phase)
            self._costs[key] = Cost.of(parts)
        return self._costs[key]

    def _parts(
        self,
        spec: OperatorSpec | str,
        a: Architecture,
        batch: int,
        phase: Phase,
        seen: np.ndarray,
        times: int,
        shown: Phase,
    ) -> list[Part]:
        """The row of the whole, if there is one, else one part per kernel, and what the calibration
        adds to them. phase: of the rows. shown: to which the time belongs."""
        fixed = isinstance(spec, str)
        name = spec if isinstance(spec, str) else str(spec.resolved(a.hidden))
        vocab = a.vocab if fixed else 0
        if self.operators is not None and self.operators.has(name, a.hidden, vocab):
            kernel = f"operator_{phase}"
            answer = self.operators.answer(name, a.hidden, phase, batch, seen, vocab)
            if answer is None:
                lengths = f"{int(seen.min())} to {int(seen.max())} tokens"
                rows = f"{kernel} rows for batch {batch} and {lengths}"
                raise self._missing(name, a.hidden, rows)
            label = spec if isinstance(spec, str) else spec.name
            return [Part(shown, kernel, label, answer.times(times))]
        calls = (
            _fixed_kernels(spec, a)
            if isinstance(spec, str)
            else self.launched(spec, a.hidden, phase)
        )
        kernels = self.kernels if fixed else self.operator_kernels
        try:
            launches = [kernels.time(call, phase, batch, seen) for call in calls]
        except LookupFailure as failure:
            raise self._missing(name, a.hidden, str(failure)) from None
        parts = [
            Part(shown, call.kind.rows_name(phase), call.label, launch.times(times))
            for call, launch in zip(calls, launches, strict=True)
        ]
        if shown == "decode":
            added = self.calibration.added(
                calls, launches, batch, lambda call: self.bytes_us(call, batch, seen)
            )
            if added:
                parts.append(Part(shown, "calibration", "calibration", added.times(times)))
        return parts

    def launched(self, spec: OperatorSpec, hidden: int, phase: Phase) -> list[KernelCall]:
        """The kernels that serve an operator in the calibration's stack."""
        calls = spec.kernels(hidden, phase)
        return (
            [call for call in calls if not call.fusable]
            if self.calibration.stack == "fused"
            else [part for call in calls for part in call.split()]
        )

    def bytes_us(self, call: KernelCall, batch: int, seen: np.ndarray) -> float:
        """Of the bytes of a kernel in a decode step at the device's bandwidth."""
        load = Load("decode", batch, 1, float(seen.mean()))
        return (
            1e6
            * call.kind.bytes_moved(call, load, self.dtype_bytes)
            / self.table.device.bandwidth_bytes_s
        )

    # -- errors

    def _check_matrices(self) -> None:
        if not has_weights(self.table, self.dtype):
            others = [
                name
                for name in shipped_tables()
                if has_weights(LatencyTable.load(name), self.dtype)
            ]
            raise MissingRowsError(
                f"table {self.table.name} has no matrix products with weights in"
                f" {self.dtype}; shipped tables with them: {', '.join(others) or 'none'}"
            )

    def _missing(self, operator: str, hidden: int, rows: str) -> MissingRowsError:
        return MissingRowsError(
            f"table {self.table.name} cannot answer operator {operator!r} at hidden size {hidden}"
            f" for workload {self.workload.name}: no {rows}; measure it: {self._command()}"
        )

    def _command(self) -> str:
        return (
            f"flashnas profile --space SPACE --workload {self.workload.name}"
            f" --device {self.table.device.platform}"
        )


def _fixed_kernels(name: str, a: Architecture) -> list[KernelCall]:
    """Of EMBEDDING, or of HEAD with the final norm and the choice of the token."""
    if name == EMBEDDING:
        return [pointwise("lookup", 2 * a.hidden)]
    return [
        pointwise("final_norm", 2 * a.hidden),
        GEMM.call("head", n=a.vocab, k=a.hidden),
        pointwise("sampling", a.vocab),
    ]


def model_of(
    table: LatencyTable | str | Path,
    workload: Workload,
    *,
    calibration: str = ENGINE,
) -> LatencyModel:
    """Of a table that is named, the next call gets the same model with all that it has looked up,
    until a file of the table changes."""
    if isinstance(table, LatencyTable):
        return LatencyModel(table, workload, calibration=calibration)
    return _named(table_state(table), workload, calibration)


@functools.lru_cache(maxsize=8)
def _named(
    state: tuple[Path, Path, tuple[Any, ...]],
    workload: Workload,
    calibration: str,
) -> LatencyModel:
    return LatencyModel(str(state[1]), workload, calibration=calibration)
