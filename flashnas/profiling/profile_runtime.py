"""Profiling of llama.cpp, which runs whole networks only: rows of operators by regression
(regression.py).

Each timing of a network is appended to `networks.jsonl` in the table's folder, so that an
interrupted measurement continues; the rows are fitted and written at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import TableError
from flashnas.base.files import append_synced, disk_errors, drop_torn_line
from flashnas.base.foreign import read_json_lines
from flashnas.base.schema import convert
from flashnas.latency.regression import REST, Row, choose_networks, counts, fit
from flashnas.latency.row_requests import RowRequest, missing, plan
from flashnas.latency.table_writer import edited_meta
from flashnas.latency.validation import TIMED
from flashnas.latency.workload import Workload
from flashnas.profiling.llama_cpp.target import PIECE_TOKENS, STEPS, LlamaCpp, Times
from flashnas.profiling.setup import Setup
from flashnas.profiling.table_folder import device_of, finished, prepare_folder, write_measured
from flashnas.profiling.target import Progress
from flashnas.space.operator_space import OperatorSpace

JOURNAL = "networks.jsonl"
ROUNDS = 3  # timings of a network, spread over the measurement; their median counts
DISTURBED = (
    0.15  # a range of a network's timings, relative to their median, that is worth a warning
)
MIN_US = 0.1  # of a row. The rest (regression.py) is the head's row in a decode step
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
        ConfigError: the folder is in use for something else, or a workload has several sequences.
        DeviceError: a network needs more memory than is free.
        ExportError: llama.cpp cannot hold the networks of the space.
        SpaceError: the times of the space's operators cannot be separated.
        TableError: the folder holds the table of another device or build.
    """
    for workload in workloads:
        setup.check_workload(workload)
    items = plan(space, workloads)
    networks = {
        hidden: choose_networks(space, hidden, np.random.default_rng(hidden), setup.check_holds)
        for hidden in space.hidden_sizes
    }
    table = prepare_folder(folder, setup, (JOURNAL,))
    todo = missing(items, table, stack=setup.stack, mode=setup.mode_name, dtype=setup.dtype_name)
    counts = {"measured": len(todo), "known": len(items) - len(todo)}
    if not todo:
        return counts
    widths = sorted({item.hidden for item in todo})
    setup.check_memory([network for hidden in widths for network in networks[hidden]], workloads)
    if table is not None:
        setup.check_build(f"--out {folder}: the table", table.meta["stacks"].get(setup.stack, {}))
    device, meta = device_of(folder, Setup()), space.model.meta_tokens
    prompts = sorted({meta + workload.prompt_tokens for workload in workloads} - {0})
    pieces = sorted({piece for workload in workloads for piece in context_pieces(workload, meta)})
    journal, lengths = (
        NetworkJournal(folder / JOURNAL, setup),
        {"prompts": prompts, "contexts": pieces},
    )
    order = [
        (network, turn)
        for turn in range(ROUNDS)
        for hidden in widths
        for network in networks[hidden]
    ]
    for number, (network, turn) in enumerate(order):
        progress(number, len(order))
        if not journal.has(network, turn, lengths):
            journal.add(
                network,
                turn,
                lengths,
                setup.times(network, prompts, [timed_context(piece) for piece in pieces], STEPS),
            )
    progress(len(order), len(order))
    errors: dict[str, list[float]] = {"decode": [], "prefill": []}
    rows: list[dict[str, Any]] = []
    for hidden in widths:
        requests = [item for item in items if item.hidden == hidden]
        rows += _rows(space, requests, networks[hidden], journal, prompts, pieces, errors)
    repeats = ROUNDS * max(map(len, networks.values()))
    write_measured(
        folder,
        device,
        setup,
        [{**row, "repeats": repeats, "mode": setup.mode_name} for row in rows],
        f"flashnas profile --runtime {setup.name}, {setup.stack}",
    )
    with edited_meta(folder) as stored:
        stored[TIMED] = sorted(
            {*(stored.get(TIMED) or ()), *(network.hash for network, _ in order)}
        )
    return finished(
        folder,
        setup,
        counts,
        {
            "rows": len(rows),
            "networks": len(order) // ROUNDS,
            "regression": {
                phase: {
                    "mean_error": round(float(np.mean(np.abs(values))), 4),
                    "max_error": round(float(np.max(np.abs(values))), 4),
                }
                for phase, values in errors.items()
                if values
            },
            "disturbed_networks": sum(
                journal.spread(network) > DISTURBED
                for hidden in widths
                for network in networks[hidden]
            ),
        },
    )


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


def timed_context(piece: int) -> int:
    """The context after the last step that is timed at a piece."""
    return max(piece - MARGIN, STEPS + 1)


def _rows(
    space: OperatorSpace[Any],
    items: Sequence[RowRequest],
    networks: Sequence[Architecture],
    journal: NetworkJournal,
    prompts: Sequence[int],
    pieces: Sequence[int],
    errors: dict[str, list[float]],
) -> list[dict[str, Any]]:
    """The rows of one width, and those at the middle of each piece whose time depends on the
    context.
    """
    kinds, rng = space.kinds(), np.random.default_rng(0)
    once = [counts(network, kinds) for network in networks]
    depends = {item.operator for item in items if item.phase == "decode" and item.length}
    rest_us = 0.0
    rows: list[dict[str, Any]] = []

    def add(item: RowRequest, length: int, value: tuple[float, float, float]) -> None:
        latency_us, p10_us, p90_us = (max(us, MIN_US) for us in value)
        rows.append(
            {
                "phase": item.phase,
                **item.key(length),
                "latency_us": latency_us,
                "p10_us": p10_us,
                "p90_us": p90_us,
            }
        )

    if pieces:
        fitted = fit(
            [_at(row, piece, depends) for row in once for piece in pieces],
            [
                journal.median_us(network, "contexts", piece)
                for network in networks
                for piece in pieces
            ],
            rng,
        )
        errors["decode"] += fitted.errors
        rest_us = fitted.values[REST][0]
        middles = [piece - PIECE_TOKENS // 2 for piece in pieces]
        for item in (item for item in items if item.phase == "decode"):
            if item.operator in depends:
                values = np.array([fitted.values[item.operator, piece] for piece in pieces])
                for length in {item.length, *(middle for middle in middles if middle > 0)}:
                    add(
                        item,
                        length,
                        tuple(np.interp(length, middles, column) for column in values.T),
                    )
            else:
                name = REST if item.operator == "head" else item.operator
                add(item, 0, fitted.values.get(name, (MIN_US,) * 3))
    elif head := next((item for item in items if item.operator == "head"), None):
        add(head, 0, (MIN_US,) * 3)  # prompts alone: their fixed costs are the embedding's
        add(next(item for item in items if item.operator == "embedding"), 0, (MIN_US,) * 3)
    for prompt in prompts:
        # the head's row is counted for a prompt, too
        fixed_us = rest_us if prompt > space.model.meta_tokens else 0.0
        fitted = fit(
            once,
            [journal.median_us(network, "prompts", prompt) - fixed_us for network in networks],
            rng,
        )
        errors["prefill"] += fitted.errors
        for item in items:
            if item.phase == "prefill" and item.length == prompt:
                add(
                    item,
                    prompt,
                    fitted.values[REST if item.operator == "embedding" else item.operator],
                )
    unique = {
        (row["phase"], row["operator"], row.get("context", 0), row.get("tokens", 0)): row
        for row in rows
    }
    return list(unique.values())


def _at(row: Row, piece: int, depends: Iterable[str]) -> Row:
    return {(name, piece) if name in depends else name: value for name, value in row.items()}


Lengths = Mapping[str, Sequence[int]]  # "prompts", and "contexts" of steps


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
    TableError if a line is damaged, or the disk is full."""

    def __init__(self, path: Path, program: LlamaCpp) -> None:
        self.path, self.program = path, program
        self._us: dict[
            tuple[str, int], dict[tuple[str, str], float]
        ] = {}  # hash, round -> what, length
        for number, line in enumerate(
            read_json_lines(path, TableError) if path.exists() else (), 1
        ):
            timing = convert(line, _NetworkTiming, f"{path}:{number}", TableError, name="timing")
            if timing.stack == program.stack:
                self._take(timing)
        drop_torn_line(path)

    def _take(self, timing: _NetworkTiming) -> None:
        self._us.setdefault((timing.hash, timing.round), {}).update(
            {
                (what, length): 1000 * times[self.program.clock]
                for what in ("prompts", "contexts")
                for length, times in getattr(timing, what).items()
            }
        )

    def has(self, network: Architecture, turn: int, lengths: Lengths) -> bool:
        """True if the round of a network has the times of all lengths."""
        return {
            (what, str(length)) for what, all_of in lengths.items() for length in all_of
        } <= self._us.get((network.hash, turn), {}).keys()

    def add(self, network: Architecture, turn: int, lengths: Lengths, times: Times) -> None:
        """Keep a timing."""
        kept = {
            what: {
                str(length): {name: round(value, 4) for name, value in each.items()}
                for length, each in zip(lengths[what], times[what], strict=True)
            }
            for what in lengths
        }
        timing = _NetworkTiming(
            hash=network.hash,
            notation=str(network),
            stack=self.program.stack,
            round=turn,
            prompts=kept["prompts"],
            contexts=kept["contexts"],
        )
        with disk_errors(f"{self.path}: cannot be written", TableError):
            append_synced(self.path, json.dumps(vars(timing)))
        self._take(timing)

    def _rounds_us(self, network: Architecture, key: tuple[str, str]) -> list[float]:
        return [self._us[network.hash, turn][key] for turn in range(ROUNDS)]

    def median_us(self, network: Architecture, what: str, length: int) -> float:
        """The median of the rounds; what: prompts or contexts."""
        return float(np.median(self._rounds_us(network, (what, str(length)))))

    def spread(self, network: Architecture) -> float:
        """The largest range of the rounds relative to their median."""
        rounds = [self._rounds_us(network, key) for key in self._us[network.hash, 0]]
        return max(float(np.ptp(each) / np.median(each)) for each in rounds)
