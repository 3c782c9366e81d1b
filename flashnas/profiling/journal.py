"""The timings of networks to which rows are fitted, kept in the folder of the table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.documents import convert
from flashnas.base.errors import TableError
from flashnas.base.json_lines import append_synced, drop_torn_line, read_json_lines
from flashnas.base.system import disk_errors
from flashnas.latency.validation import AGAIN, shortest, spread
from flashnas.profiling.regression import Terms
from flashnas.profiling.row_requests import RowRequest
from flashnas.profiling.target import Steps, Target


@dataclass(kw_only=True)
class Series:
    """Networks that are timed with one batch, and fitted together.

    Attributes:
        terms: of their widths.
        prompts: lengths.
        steps: context of a row -> what is timed for it.
        requests: the rows that follow.
        left_out: why the rest of the series is not timed.
    """

    terms: Terms
    networks: list[Architecture]
    batch: int
    prompts: list[int]
    steps: dict[int, Steps]
    requests: list[RowRequest]
    left_out: str = ""

    @property
    def parts(self) -> list[tuple[str, int]]:
        """What is timed of each network, as the journal names it."""
        return [
            *(("prompts", length) for length in self.prompts),
            *(("steps", part[-1]) for part in self.steps.values()),
        ]


@dataclass(frozen=True, kw_only=True)
class NetworkTiming:
    """A line: one round of a network. prompts: length -> milliseconds; steps: context of the last
    step -> milliseconds of the mean step."""

    stack: str
    mode: str
    dtype: str
    hash: str
    notation: str
    batch: int
    round: int
    prompts: dict[str, float]
    steps: dict[str, float]

    def __post_init__(self) -> None:
        for length, ms in [*self.prompts.items(), *self.steps.items()]:
            if not (length.isascii() and length.isdecimal() and 0 < ms < math.inf):
                raise ValueError(
                    f"prompts and steps must be lengths with times above 0; got {length!r} {ms}"
                )


class Journal:
    """The timings of one target in a file of JSON lines. Raises TableError if a line is damaged, or
    the disk is full."""

    def __init__(self, path: Path, target: Target, rounds: int) -> None:
        self.path, self.target, self.rounds = path, target, rounds
        self._rows = {"stack": target.stack, "mode": target.mode_name, "dtype": target.dtype_name}
        # by hash, batch, round, prompts or steps, length
        self._ms: dict[tuple[str, int, int, str, int], float] = {}
        lines = read_json_lines(path, TableError) if path.exists() else []
        for number, line in enumerate(lines, 1):
            timing = convert(line, NetworkTiming, f"{path}:{number}", TableError, name="timing")
            if self._rows.items() <= vars(timing).items():
                self._add(timing)
        drop_torn_line(path, TableError)

    def _add(self, timing: NetworkTiming) -> None:
        for part in ("prompts", "steps"):
            for length, ms in getattr(timing, part).items():
                self._ms[timing.hash, timing.batch, timing.round, part, int(length)] = ms

    def has(self, turn: int, series: Series, network: Architecture) -> bool:
        """Whether this round of a network is timed."""
        return all((network.hash, series.batch, turn, *part) in self._ms for part in series.parts)

    def time(self, turn: int, series: Series, network: Architecture) -> str:
        """Time a network; returns the note of the times."""
        steps = list(series.steps.values())
        times = self.target.times(network, series.batch, series.prompts, steps)
        contexts = [part[-1] for part in steps]
        timing = NetworkTiming(
            **self._rows,
            hash=network.hash,
            notation=str(network),
            batch=series.batch,
            round=turn,
            prompts=_rounded(series.prompts, times.prompts),
            steps=_rounded(contexts, times.steps),
        )
        with disk_errors(f"{self.path}: cannot be written", TableError):
            append_synced(self.path, json.dumps(vars(timing)))
        self._add(timing)
        return times.note

    def _rounds_ms(self, network: Architecture, batch: int, part: str, length: int) -> list[float]:
        """The shortest of all its timings, as many as there are rounds."""
        keys = [(network.hash, batch, turn, part, length) for turn in range(self.rounds + AGAIN)]
        return shortest([self._ms[key] for key in keys if key in self._ms], self.rounds)

    def median_us(self, network: Architecture, batch: int, part: str, length: int) -> float:
        """The median of the rounds; part: prompts or steps."""
        return 1000 * float(np.median(self._rounds_ms(network, batch, part, length)))

    def spread(self, network: Architecture, series: Series) -> float:
        """The largest range of the rounds relative to their median."""
        rounds = [self._rounds_ms(network, series.batch, *part) for part in series.parts]
        return max(map(spread, rounds))


def _rounded(lengths: Sequence[int], times_ms: Sequence[float]) -> dict[str, float]:
    pairs = zip(lengths, times_ms, strict=True)
    return {str(length): round(ms, 5) for length, ms in pairs}
