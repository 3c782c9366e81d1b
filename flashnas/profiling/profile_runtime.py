"""Profiling of llama.cpp, which runs whole networks only: rows of operators by regression
(regression.py).

Each timing of a network is appended to `networks.jsonl` in the table's folder, so that an
interrupted measurement continues; the rows are fitted and written at the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.documents import convert
from flashnas.base.errors import TableError
from flashnas.base.foreign import read_json_lines
from flashnas.base.system import append_synced, disk_errors, drop_torn_line
from flashnas.latency.regression import REST, Row, choose_networks, counts, fit
from flashnas.latency.row_requests import RowRequest, plan
from flashnas.latency.table_writer import edited_meta
from flashnas.latency.validation import TIMED
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Measurement
from flashnas.profiling.llama_cpp.target import PIECE_TOKENS, STEPS, LlamaCpp
from flashnas.profiling.table_folder import TableFolder
from flashnas.profiling.target import Progress
from flashnas.space.operator_space import OperatorSpace

JOURNAL = "networks.jsonl"
ROUNDS = 3  # timings of a network, spread over the measurement; their median counts
DISTURBED = (
    0.15  # a range of a network's timings, relative to their median, that is worth a warning
)
MIN_US = 0.1  # of a row. The rest (regression.py) is the head's row in a decode step
LEAST = (MIN_US,) * 3
MARGIN = 8  # tokens between the last step that is timed at a piece and the piece's end


def profile_runtime(
    space: OperatorSpace[Any],
    workloads: Sequence[Workload],
    folder: Path,
    setup: LlamaCpp,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Time networks of a space, and write the rows of its operators if a table lacks some; see
    profile.py. Workloads are of one sequence each; progress counts timings; `regression` in the
    record has the relative errors of the networks' fitted times.

    Raises:
        ConfigError: a workload has several sequences, or as of `TableFolder`.
        DeviceMemoryError: a network needs more memory than is free.
        ExportError: llama.cpp cannot hold the networks of the space.
        SpaceError: the times of the space's operators cannot be separated.
        TableError: as of `TableFolder`.
    """
    for workload in workloads:
        setup.check_workload(workload)
    items = plan(space, workloads)
    networks = {
        hidden: choose_networks(space, hidden, np.random.default_rng(hidden), setup.check_holds)
        for hidden in space.hidden_sizes
    }
    table = TableFolder(folder, setup, (JOURNAL,))
    todo = table.missing(items)
    found = {"measured": len(todo), "known": len(items) - len(todo)}
    if not todo:
        return found
    widths = sorted({item.hidden for item in todo})
    timed = [network for hidden in widths for network in networks[hidden]]
    for network in timed:
        setup.check_memory(network, workloads)
    journal = NetworkJournal(folder / JOURNAL, setup, space.model.meta_tokens, workloads)
    order = [(network, turn) for turn in range(ROUNDS) for network in timed]
    for number, (network, turn) in enumerate(order):
        progress(number, len(order))
        journal.time(network, turn)
    progress(len(order), len(order))
    errors: dict[str, list[float]] = {"decode": [], "prefill": []}
    rows: dict[RowRequest, Measurement] = {}
    repeats = ROUNDS * max(map(len, networks.values()))
    for hidden in widths:
        requests = [item for item in items if item.hidden == hidden]
        fitted = _fitted(space, requests, networks[hidden], journal, errors)
        for item, values in fitted.items():
            median_us, p10_us, p90_us = (max(us, MIN_US) for us in values)
            rows[item] = Measurement(median_us, p10_us, p90_us, repeats)
    table.write(rows, f"flashnas profile --runtime {setup.name}, {setup.stack}")
    with edited_meta(folder) as stored:
        stored[TIMED] = sorted({*(stored.get(TIMED) or ()), *(network.hash for network in timed)})
    facts = {
        "rows": len(rows),
        "networks": len(timed),
        "regression": {
            phase: {
                "mean_error": round(float(np.mean(np.abs(values))), 4),
                "max_error": round(float(np.max(np.abs(values))), 4),
            }
            for phase, values in errors.items()
            if values
        },
        "disturbed_networks": sum(journal.spread(network) > DISTURBED for network in timed),
    }
    return {**found, **table.finish(facts)}


def context_pieces(workload: Workload, meta_tokens: int) -> list[int]:
    """Contexts at which decode steps are timed, from the first one of the workload to its last:
    each about twice the one before, in multiples of PIECE_TOKENS."""
    if not workload.generated_tokens:
        return []
    first = meta_tokens + workload.prompt_tokens + 1
    last = first + workload.generated_tokens - 1
    piece, last = (-(-count // PIECE_TOKENS) * PIECE_TOKENS for count in (first, last))
    pieces = []
    while piece < last:
        pieces.append(piece)
        piece *= 2
    return [*pieces, last]


def _fitted(
    space: OperatorSpace[Any],
    items: Sequence[RowRequest],
    networks: Sequence[Architecture],
    journal: NetworkJournal,
    errors: dict[str, list[float]],
) -> dict[RowRequest, tuple[float, ...]]:
    """Median and percentiles of the rows of one width, and of those at the middle of each piece
    whose time depends on the context. Errors of the networks are added to `errors`."""
    rng, pieces = np.random.default_rng(0), journal.pieces
    once = [counts(network, space.kinds()) for network in networks]
    depends = {item.operator for item in items if item.phase == "decode" and item.length}
    # of a step; for prompts alone there are none, and their fixed costs are the embedding's
    step_us: dict[Any, tuple[float, float, float]] = {}
    if pieces:
        regressors: list[Row] = [
            {(name, piece) if name in depends else name: value for name, value in row.items()}
            for row in once
            for piece in pieces
        ]
        times = [
            journal.median_us(network, "contexts", piece)
            for network in networks
            for piece in pieces
        ]
        fitted = fit(regressors, times, rng)
        errors["decode"] += fitted.errors
        step_us = fitted.values
    rows: dict[RowRequest, tuple[float, ...]] = {}
    middles = [piece - PIECE_TOKENS // 2 for piece in pieces]
    for item in items:
        if item.phase == "decode" and item.operator in depends:
            values = np.array([step_us[item.operator, piece] for piece in pieces])
            for length in {item.length, *(middle for middle in middles if middle > 0)}:
                rows[replace(item, length=length)] = tuple(
                    np.interp(length, middles, column) for column in values.T
                )
        elif item.phase == "decode":
            rows[item] = step_us.get(REST if item.operator == "head" else item.operator, LEAST)
    rest_us = step_us.get(REST, (0.0,))[0]
    for prompt in journal.prompts:
        # the head's row is counted for a prompt, too
        fixed_us = rest_us if prompt > space.model.meta_tokens else 0.0
        times = [journal.median_us(network, "prompts", prompt) - fixed_us for network in networks]
        fitted = fit(once, times, rng)
        errors["prefill"] += fitted.errors
        for item in items:
            if item.phase == "prefill" and item.length == prompt:
                name = REST if item.operator == "embedding" else item.operator
                rows[item] = fitted.values[name]
    return rows


@dataclass(frozen=True, kw_only=True)
class _NetworkTiming:
    """A line: length of a prompt, or context of a step -> wall_ms and cpu_ms."""

    hash: str
    notation: str
    stack: str
    round: int
    prompts: dict[str, dict[str, float]]
    contexts: dict[str, dict[str, float]]


class NetworkJournal:
    """The timings of one stack in a file of JSON lines, one timing of a network a line. Raises
    TableError if a line is damaged, or the disk is full.

    Attributes:
        prompts: lengths of the prompts that the workloads need.
        pieces: contexts at which their steps are timed.
    """

    def __init__(
        self, path: Path, program: LlamaCpp, meta_tokens: int, workloads: Sequence[Workload]
    ) -> None:
        self.path, self.program = path, program
        prompts = {meta_tokens + workload.prompt_tokens for workload in workloads}
        pieces = {piece for work in workloads for piece in context_pieces(work, meta_tokens)}
        self.prompts, self.pieces = sorted(prompts - {0}), sorted(pieces)
        # by hash, round, prompts or contexts, length
        self._us: dict[tuple[str, int, str, str], float] = {}
        lines = read_json_lines(path, TableError) if path.exists() else []
        for number, line in enumerate(lines, 1):
            timing = convert(line, _NetworkTiming, f"{path}:{number}", TableError, name="timing")
            if timing.stack == program.stack:
                self._add(timing)
        drop_torn_line(path)

    def _add(self, timing: _NetworkTiming) -> None:
        for name in ("prompts", "contexts"):
            for length, times in getattr(timing, name).items():
                self._us[timing.hash, timing.round, name, length] = 1000 * times[self.program.clock]

    def time(self, network: Architecture, turn: int) -> None:
        """Time a network, unless the journal has this round of it."""
        lengths = {"prompts": self.prompts, "contexts": self.pieces}
        keys = {
            (network.hash, turn, name, str(length)) for name in lengths for length in lengths[name]
        }
        if keys <= self._us.keys():
            return
        ends = [max(piece - MARGIN, STEPS + 1) for piece in self.pieces]
        times = self.program.times(network, self.prompts, ends, STEPS)
        rounded = {
            name: {
                str(length): {clock: round(ms, 4) for clock, ms in entry.items()}
                for length, entry in zip(lengths[name], times[name], strict=True)
            }
            for name in lengths
        }
        timing = _NetworkTiming(
            hash=network.hash,
            notation=str(network),
            stack=self.program.stack,
            round=turn,
            **rounded,
        )
        with disk_errors(f"{self.path}: cannot be written", TableError):
            append_synced(self.path, json.dumps(vars(timing)))
        self._add(timing)

    def _rounds_us(self, network: Architecture, name: str, length: str) -> list[float]:
        return [self._us[network.hash, turn, name, length] for turn in range(ROUNDS)]

    def median_us(self, network: Architecture, name: str, length: int) -> float:
        """The median of the rounds; name: prompts or contexts."""
        return float(np.median(self._rounds_us(network, name, str(length))))

    def spread(self, network: Architecture) -> float:
        """The largest range of the rounds relative to their median."""
        rounds = [
            self._rounds_us(network, name, length)
            for hash_, turn, name, length in self._us
            if (hash_, turn) == (network.hash, 0)
        ]
        return max(float(np.ptp(us) / np.median(us)) for us in rounds)
