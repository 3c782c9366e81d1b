"""LatencyModel: the latency of networks on a table's device, as the sum of their operators' times."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.base.errors import MissingRowsError
from flashnas.latency.calibration import Calibration
from flashnas.latency.memory import USABLE_SHARE, largest_batch, largest_batches, memory_sizes
from flashnas.latency.metrics import (
    EMBEDDING,
    ENDS,
    HEAD,
    HOST,
    SERVING,
    STATED,
    TIMES,
    UNTIMED,
    Cost,
    Estimate,
    Request,
    observed_line,
    source_shares,
)
from flashnas.latency.operator_costs import OperatorCosts
from flashnas.latency.table import LatencyTable, table_state
from flashnas.latency.workload import ENGINE, Workload, load_workload
from flashnas.operators import OperatorSpec, Phase
from flashnas.operators.kernel import PHASES


class Correction(Protocol):
    """By observed times (`flashnas.observations.correction`). observed: program, device, times, factor
    and digest, as of an `Estimate`."""

    @property
    def observed(self) -> Mapping[str, Any]: ...

    def latencies_of(self, workload: Workload) -> list[tuple[str, float, int]]: ...

    def factors(self, model: LatencyModel, networks: Networks, request: Request) -> np.ndarray: ...

    def bounds(
        self, model: LatencyModel, networks: Networks, request: Request
    ) -> dict[str, tuple[Any, Any]]: ...


class LatencyModel:
    """Estimates for one table and one workload, or their names. The cost of an operator is computed
    once for each width, number of meta tokens and batch: many architectures of one space cost a few
    additions each.

    Args:
        calibration: whose whole models the estimates are of, "engine" or "paper" (calibration.py);
            a table without one of that name answers by its rows. A Calibration of one's own has
            constants that the table does not state; `Calibration()` has none.
        programs: whose host the steps have, by the names of `--runtime`; none: the latest vLLM.
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
        programs: Collection[str] = (),
        correction: Correction | None = None,
    ) -> None:
        self.table = LatencyTable.load(table)
        self.correction = correction
        self.workload = load_workload(workload)
        if isinstance(calibration, str):
            calibration = self.table.calibrated(calibration, programs)
        self.calibration = calibration
        self.costs = OperatorCosts(self.table, self.workload, calibration)
        self.dtype = self.costs.dtype

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
        """Of the correction; `timed`: hashes of the networks that were timed under this workload."""
        if self.correction is None:
            return {}
        timed = sorted({key for key, *_ in self.correction.latencies_of(self.workload)})
        return {**self.correction.observed, "timed": timed}

    def estimate(self, architecture: Architecture) -> Estimate:
        """All figures with breakdown; raises MissingRowsError if the table cannot answer,
        BudgetError if batch "max" finds no room."""
        a, w, batch = architecture, self.workload, self.batch(architecture)
        networks = Networks.of([a])
        request = self.request(networks, batch, bounded=True)
        values = {name: float(found[0]) for name, found in request.figures().items()}
        bounds = {
            name: [float(low[0]), float(high[0])]
            for name, (low, high) in self.bounds(networks, request).items()
        }
        latency_ms = values["latency_ms"]
        entries = self._breakdown(a, request, latency_ms)
        notes = [
            self.calibration.note(batch) if w.generated_tokens else None,
            self.costs.note_on_weights(),
            self.costs.note_on_caches(),
        ]
        observed: dict[str, Any] = {}
        if self.correction is not None:
            observed = {**self.correction.observed, **self._beside(a, request, values["tpot_ms"])}
            notes.append(observed_line(observed))
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
            memory_gb=float(self.columns([a], ["memory_gb"])["memory_gb"][0]),
            workload=w.name,
            table=self.table.name,
            calibration=self.calibration.name,
            weights=self.dtype,
            breakdown=tuple(entries),
            sources=source_shares(entries),
            notes=tuple(note for note in notes if note),
            observed=observed,
        )

    def _breakdown(
        self, a: Architecture, request: Request, latency_ms: float
    ) -> list[dict[str, Any]]:
        """As of an Estimate."""
        factors = np.broadcast_to(request.factors, (1, 2))[0].tolist()
        by_phase = dict(zip(PHASES, factors, strict=True))
        named: list[tuple[str, int, OperatorSpec | str]] = [
            (EMBEDDING, -1, EMBEDDING),
            *((spec.kind, index, spec) for index, spec in enumerate(a.operators)),
            (HEAD, -1, HEAD),
        ]
        parts = [
            (name, index, part)
            for name, index, spec in named
            for part in self.costs.of(spec, a.hidden, a.vocab, a.meta_tokens, request.batch).parts
        ]
        entries = []
        for name, index, part in (*parts, *((HOST, -1, part) for part in request.host())):
            ms = part.total.us / 1000 * by_phase[part.phase]
            entries.append(
                {
                    "operator": name,
                    "index": index,
                    "phase": part.phase,
                    "kernel": part.kernel,
                    "label": part.label,
                    "source": part.total.source,
                    "ms": ms,
                    "share": ms / latency_ms,
                }
            )
        return entries

    def _beside(self, a: Architecture, request: Request, tpot_ms: float) -> dict[str, list[float]]:
        """latency_ms by the table alone, with its interval; and observed ones of the network."""
        assert self.correction is not None
        by_table = dataclasses.replace(request, factors=1.0)
        ends = (by_table.figures()["latency_ms"], *by_table.bounds()["latency_ms"])
        own = (found for found in self.correction.latencies_of(self.workload) if found[0] == a.hash)
        return {
            "table_ms": [float(end[0]) for end in ends],
            "latency_ms": [ms + less * tpot_ms for _, ms, less in own],
        }

    def serving(self, architecture: Architecture) -> dict[str, float | None]:
        """SERVING of one network; None for the time where the table has no rows of such a prompt."""
        found = dict[str, float | None].fromkeys(SERVING)
        for name in SERVING:
            with contextlib.suppress(MissingRowsError):
                found[name] = float(self.columns([architecture], [name])[name][0])
        return found

    def latencies(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """latency_ms of each, shape [N]."""
        return self.columns(architectures, ["latency_ms"])["latency_ms"]

    def columns(
        self, networks: Sequence[Architecture], names: Iterable[str] = STATED
    ) -> dict[str, np.ndarray]:
        """Metrics of each network by name, float64 [N], as `estimate` states them; NaN for other
        names. Where a batch "max" finds no room, times are infinite, and memory_gb is that of one
        sequence. SERVING are stated here alone."""
        names = tuple(names)
        found = {name: np.full(len(networks), np.nan) for name in names}
        for indices, alike in _alike(networks):
            for name, values in self._columns(alike, names).items():
                found[name][indices] = values
        return found

    def _columns(self, networks: Networks, names: Sequence[str]) -> dict[str, np.ndarray]:
        of_shape = ("params", "active_params")
        found = {name: getattr(networks, name) for name in names if name in of_shape}
        batches = np.full(len(networks), self.workload.batch)
        if not {"memory_gb", *SERVING}.isdisjoint(names) or self.workload.batch == "max":
            sizes = memory_sizes(networks, self.workload, self.dtype)
            if self.workload.batch == "max":
                batches = largest_batches(sizes, self.table.device)
            if "memory_gb" in names:
                found["memory_gb"] = sizes.total(np.maximum(batches, 1)) / 1e9
            if "sequences" in names:
                usable = self.table.device.memory_bytes * USABLE_SHARE
                found["sequences"] = sizes.most(usable).astype(float)
            if "block_tokens" in names:
                found["block_tokens"] = np.asarray(sizes.block_tokens, float)
            if "turn2_ttft_ms" in names:
                found["turn2_ttft_ms"] = self._turn2_ttft_ms(
                    networks, batches, np.asarray(sizes.reused_tokens, int)
                )
        if not set(names) <= {*UNTIMED, *SERVING}:
            times = self._times(networks, batches, bounded=not ENDS.keys().isdisjoint(names))
            found |= {name: times[name] for name in names if name in times}
        return found

    def _turn2_ttft_ms(
        self, networks: Networks, batches: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """Of each network, [N]; infinite where there is no room. known: tokens that are reused."""
        tokens = self.workload.context + networks.meta_tokens + self.workload.turn2_tokens
        found = np.full(len(networks), np.inf)
        for batch, first in set(zip(batches.tolist(), known.tolist(), strict=True)):
            if not batch:
                continue
            alike = np.flatnonzero((batches == batch) & (known == first))
            some = networks.take(alike)
            us = functools.partial(
                self.costs.rest_us, vocab=networks.vocab, batch=batch, tokens=tokens, known=first
            )
            widths, width = np.unique(some.hidden, return_inverse=True)
            outer = np.array([us(EMBEDDING, each) + us(HEAD, each) for each in widths.tolist()])
            found[alike] = self.calibration.step_us(some.totals(us) + outer[width]) / 1000
            if self.correction is not None:  # as it corrects the reading of as many tokens
                new = {"prompt_tokens": tokens - first, "generated_tokens": 0, "batch": batch}
                model = self.at(dataclasses.replace(self.workload, **new))
                found[alike] *= model.request(some, batch).factors[:, 0]
        return found

    def _times(
        self, networks: Networks, batches: np.ndarray, *, bounded: bool
    ) -> dict[str, np.ndarray]:
        """The metrics that are times and rates, and ENDS of their intervals. batches: [N], 0 where
        there is no room."""
        times = dict.fromkeys(TIMES, np.inf) | {"throughput_tok_s": 0.0}
        if not self.workload.generated_tokens:
            times["tpot_ms"] = 0.0
        ends = {name: times[metric] for name, (metric, _) in ENDS.items() if bounded}
        found = {name: np.full(len(networks), value) for name, value in (times | ends).items()}
        for batch in np.unique(batches[batches > 0]).tolist():
            of_batch = batches == batch
            some = networks if of_batch.all() else networks.take(np.flatnonzero(of_batch))
            request = self.request(some, batch, bounded=bounded)
            figures = request.figures()
            if bounded:
                bounds = self.bounds(some, request)
                figures |= {name: bounds[metric][end] for name, (metric, end) in ENDS.items()}
            for name, values in figures.items():
                found[name][of_batch] = values
        return found

    def request(self, networks: Networks, batch: int, *, bounded: bool = False) -> Request:
        """To each network [N]. bounded: with what its bounds need."""
        pairs, embedding, head = self.parts_us(networks, batch)
        prefill_us, decode_us = (
            networks.totals_of(of_pairs) + outer
            for of_pairs, outer in zip(pairs.T, (embedding + head).T, strict=True)
        )
        widening = self._widening(networks, batch) if bounded else {}
        request = Request(self.calibration, self.workload, batch, prefill_us, decode_us, widening)
        if self.correction is not None:
            request.factors = self.correction.factors(self, networks, request)
        return request

    def bounds(self, networks: Networks, request: Request) -> dict[str, tuple[Any, Any]]:
        """The interval of each of the figures of a request, which is `bounded`."""
        if self.correction is None:
            return request.bounds()
        return self.correction.bounds(self, networks, request)

    def parts_us(self, networks: Networks, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Microseconds over the whole request in both phases: of each of `networks.pairs`, [P, 2],
        and of the embedding and of the head of each network, [N, 2]."""

        *costs, width = self._costs(networks, batch)
        pairs, embedding, head = (
            np.array([cost.us for cost in each], float).reshape(-1, 2) for each in costs
        )
        return pairs, embedding[width], head[width]

    def _costs(
        self, networks: Networks, batch: int
    ) -> tuple[list[Cost], list[Cost], list[Cost], np.ndarray]:
        """Of each of `networks.pairs`; of embedding and head at each width; which width a network has
        [N]."""

        def cost(spec: OperatorSpec | str, hidden: int) -> Cost:
            return self.costs.of(spec, hidden, networks.vocab, networks.meta_tokens, batch)

        widths, width = np.unique(networks.hidden, return_inverse=True)
        return (
            [cost(spec, hidden) for spec, hidden in networks.pairs],
            [cost(EMBEDDING, hidden) for hidden in widths.tolist()],
            [cost(HEAD, hidden) for hidden in widths.tolist()],
            width,
        )

    def _widening(self, networks: Networks, batch: int) -> dict[tuple[Phase, str], np.ndarray]:
        """Of each network, as of `Cost`, [3, N] each."""
        *costs, width = self._costs(networks, batch)
        none, found = np.zeros(3), {}
        # in the same order, and so the same bits, in each process
        for key in dict.fromkeys(key for each in costs for cost in each for key in cost.widening):
            pairs, embedding, head = (
                np.array([cost.widening.get(key, none) for cost in each]).reshape(-1, 3).T
                for each in costs
            )
            found[key] = (
                np.stack(list(map(networks.totals_of, pairs)))
                + embedding[:, width]
                + head[:, width]
            )
        return found

    def batch(self, architecture: Architecture) -> int:
        """The workload's batch; for "max" the largest that fits the device's memory."""
        if self.workload.batch != "max":
            return self.workload.batch
        return largest_batch(architecture, self.workload, self.table.device, self.dtype)


def _alike(networks: Sequence[Architecture]) -> Iterable[tuple[Any, Networks]]:
    """(indices, networks): those of one vocabulary and number of meta tokens together."""
    if isinstance(networks, Networks):
        return [(slice(None), networks)]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, network in enumerate(networks):
        groups.setdefault((network.vocab, network.meta_tokens), []).append(index)
    return [
        (indices, Networks.of([networks[index] for index in indices]))
        for indices in groups.values()
    ]


def model_of(
    table: LatencyTable | str | Path,
    workload: Workload,
    *,
    calibration: str = ENGINE,
    programs: Collection[str] = (),
) -> LatencyModel:
    """Of a table that is named, the next call gets the same model with all that it has looked up,
    until a file of the table changes."""
    if isinstance(table, LatencyTable):
        return LatencyModel(table, workload, calibration=calibration, programs=programs)
    return _named(table_state(table), workload, calibration, tuple(sorted(programs)))


@functools.lru_cache(maxsize=8)
def _named(
    state: tuple[Path, Path, tuple[Any, ...]],
    workload: Workload,
    calibration: str,
    programs: tuple[str, ...],
) -> LatencyModel:
    return LatencyModel(str(state[1]), workload, calibration=calibration, programs=programs)
