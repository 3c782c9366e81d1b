"""What operators, embedding and head cost on a table's device under a workload: a row of the whole
operator if there is one, else its kernels, one by one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import MissingRowsError
from flashnas.latency.calibration import OWN, BoundedTime, Calibration
from flashnas.latency.lookup import KernelTimes, LookupFailure, OperatorTimes
from flashnas.latency.metrics import EMBEDDING, HEAD, Cost, Part
from flashnas.latency.schema import OPERATOR_KINDS
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.workload import DTYPE_BYTES, MATRICES_ONLY, Workload
from flashnas.operators import KernelCall, OperatorSpec, Phase
from flashnas.operators.kernel import PHASES, Load
from flashnas.operators.kernel_kinds import GEMM, KERNEL_KINDS, pointwise

# contexts over which a generation step is averaged; all of them up to this many tokens
CONTEXT_POINTS = 4096


class OperatorCosts:
    """Each is computed once for a width, a number of meta tokens and a batch. Raises MissingRowsError
    if the table has no rows in the workload's dtype."""

    def __init__(self, table: LatencyTable, workload: Workload, calibration: Calibration) -> None:
        self.table, self.workload, self.calibration = table, workload, calibration
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
        self.operators = None
        if self.table.frames.keys() & OPERATOR_KINDS:
            self.operators = OperatorTimes(self.table, self.dtype)
        self.phases = functools.cache(self._phases)  # of the object, so that it ends with it
        self._known: dict[tuple[OperatorSpec | str, int, int, int, int], Cost] = {}
        self._launches: dict[tuple[Any, ...], BoundedTime] = {}

    def note_on_weights(self) -> str | None:
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

    def note_on_caches(self) -> str | None:
        if not (caches := self.workload.caches):
            return None
        named = ", ".join(f"{name} {value}" for name, value in caches.items())
        return f"{named} counts in memory and pages; the milliseconds are those of the table's rows"

    def _phases(self, meta_tokens: int) -> list[tuple[Phase, np.ndarray, int]]:
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

    def of(
        self, spec: OperatorSpec | str, hidden: int, vocab: int, meta_tokens: int, batch: int
    ) -> Cost:
        """Of an operator, of EMBEDDING or HEAD. Reading a prompt needs the head once per sequence,
        for its last position; meta tokens alone do not."""
        vocab = vocab if isinstance(spec, str) else 0
        key = (spec, hidden, vocab, meta_tokens, batch)
        if key not in self._known:
            parts = []
            for phase, seen, times in self.phases(meta_tokens):
                if spec == HEAD and phase == "prefill" and not self.workload.prompt_tokens:
                    continue
                for kernel, label, time in self._timed(spec, hidden, vocab, batch, phase, seen):
                    parts.append(Part(phase, kernel, label, time.times(times)))
            prefill_us, decode_us = (
                sum(part.total.us for part in parts if part.phase == phase) for phase in PHASES
            )
            self._known[key] = Cost(tuple(parts), (prefill_us, decode_us), self._widening(parts))
        return self._known[key]

    def rest_us(
        self, spec: OperatorSpec | str, hidden: int, vocab: int, batch: int, tokens: int, known: int
    ) -> float:
        """Of reading the last of `tokens` tokens, where the first `known` ones are in the caches: of each
        kernel what it takes for all more than for those, and no less than for the others alone."""

        def times(length: int) -> Iterable[float]:
            timed = self._timed(spec, hidden, vocab, batch, "prefill", np.array([length]))
            return [time.us for _, _, time in timed]

        if not known:
            return sum(times(tokens))
        lengths = map(times, (tokens - known, tokens, known))
        return sum(max(rest, all_ - first) for rest, all_, first in zip(*lengths, strict=True))

    def _widening(self, parts: Sequence[Part]) -> dict[tuple[Phase, str], np.ndarray]:
        found: dict[tuple[Phase, str], np.ndarray] = {}
        for part in parts:
            key, time = (part.phase, part.kernel), part.total
            if time.lower_us < time.upper_us and self.calibration.widens(*key, time.source):
                of = np.array([time.us, time.us - time.lower_us, time.upper_us - time.us])
                found[key] = found.get(key, 0) + of
        return found

    def _timed(
        self,
        spec: OperatorSpec | str,
        hidden: int,
        vocab: int,
        batch: int,
        shown: Phase,
        seen: np.ndarray,
    ) -> list[tuple[str, str, BoundedTime]]:
        """Kind of rows, label and time: of the whole, if there is a row of it, else of each kernel,
        and what the calibration adds to them. shown: to which phase the time belongs."""
        phase = shown
        if spec == HEAD:  # of rows it is one step
            phase, seen = "decode", np.ones(1)
        name = spec if isinstance(spec, str) else str(spec.resolved(hidden))
        if self.operators is not None and self.operators.has(name, hidden, vocab):
            kernel = f"operator_{phase}"
            answer = self.operators.answer(name, hidden, phase, batch, seen, vocab)
            if answer is None:
                lengths = f"{int(seen.min())} to {int(seen.max())} tokens"
                rows = f"{kernel} rows for batch {batch} and {lengths}"
                raise self._missing(name, hidden, rows)
            label = spec if isinstance(spec, str) else spec.name
            return [(kernel, label, answer)]
        if isinstance(spec, str):
            kernels, calls = self.kernels, _fixed_kernels(spec, hidden, vocab)
        else:
            kernels, calls = self.operator_kernels, spec.kernels(hidden, phase)
        try:
            launches = [self._launch(kernels, call, phase, batch, seen) for call in calls]
        except LookupFailure as failure:
            raise self._missing(name, hidden, str(failure)) from None
        timed = [
            (call.kind.rows_name(phase), call.label, launch)
            for call, launch in zip(calls, launches, strict=True)
        ]
        if shown == "decode":
            added = self.calibration.added(
                calls, launches, batch, lambda call: self.bytes_us(call, batch, seen)
            )
            if added:
                timed.append(("calibration", "calibration", added))
        return timed

    def _launch(
        self, kernels: KernelTimes, call: KernelCall, phase: Phase, batch: int, seen: np.ndarray
    ) -> BoundedTime:
        """Looked up once: operators share kernels."""
        # contexts of a workload follow from the first of them
        key = (kernels, call.kind, call.shape, phase, batch, float(seen[0]), len(seen))
        if key not in self._launches:
            self._launches[key] = kernels.time(call, phase, batch, seen)
        return self._launches[key]

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
        products = [
            kind.rows_name(phase)
            for kind in KERNEL_KINDS.values()
            if kind.weights
            for phase in PHASES
        ]
        if self.dtype not in texts(self.table, "dtype", products):
            raise MissingRowsError(
                f"table {self.table.name} has no matrix products with weights in {self.dtype}"
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


def _fixed_kernels(name: str, hidden: int, vocab: int) -> tuple[KernelCall, ...]:
    """Of EMBEDDING, or of HEAD with the final norm and the choice of the token."""
    if name == EMBEDDING:
        return (pointwise("lookup", 2 * hidden),)
    return (
        pointwise("final_norm", 2 * hidden),
        GEMM.call("head", n=vocab, k=hidden),
        pointwise("sampling", vocab),
    )
