"""The timings of networks to which rows are fitted, kept in the folder of the table."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.documents import convert
from flashnas.base.errors import TableError
from flashnas.base.foreign import append_synced, drop_torn_line, read_json_lines
from flashnas.base.system import disk_errors
from flashnas.latency.validation import shortest, spread
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
    """A line: a network, timed once. prompts: length -> milliseconds; steps: context of the last
    step -> milliseconds of the mean step."""

    stack: str
    mode: str
    dtype: str
    hash: str
    notation: str
    batch: int
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
        # all timings, by hash, batch, prompts or steps, length
        self._ms: dict[tuple[str, int, str, int], list[float]] = defaultdict(list)
        lines = read_json_lines(path, TableError) if path.exists() else []
        for number, line in enumerate(lines, 1):
            timing = convert(line, NetworkTiming, f"{path}:{number}", TableError, name="timing")
            if self._rows.items() <= vars(timing).items():
                self._add(timing)
        drop_torn_line(path, TableError)

    def _add(self, timing: NetworkTiming) -> None:
        for part in ("prompts", "steps"):
            for length, ms in getattr(timing, part).items():
                self._ms[timing.hash, timing.batch, part, int(length)].append(ms)

    def ms(self, series: Series, network: Architecture, part: str, length: int) -> list[float]:
        """The shortest timings, as many as there are rounds. part: prompts or steps."""
        return shortest(self._ms[network.hash, series.batch, part, length], self.rounds)

    def count(self, series: Series, network: Architecture) -> int:
        """How many rounds of a network are timed."""
        return min(len(self.ms(series, network, *part)) for part in series.parts)

    def spread(self, series: Series, network: Architecture) -> float:
        """The largest range of the rounds relative to their median."""
        return max(spread(self.ms(series, network, *part)) for part in series.parts)

    def time(self, series: Series, network: Architecture) -> None:
        """Time a network."""
        steps = list(series.steps.values())
        times = self.target.times(network, series.batch, series.prompts, steps)
        ms = [round(each, 5) for each in (*times.prompts, *times.steps)]
        timed = list(zip(series.parts, ms, strict=True))
        prompts, last_steps = (
            {str(length): ms for (its, length), ms in timed if its == part}
            for part in ("prompts", "steps")
        )
        timing = NetworkTiming(
            **self._rows,
            hash=network.hash,
            notation=str(network),
            batch=series.batch,
            prompts=prompts,
            steps=last_steps,
        )
        with disk_errors(f"{self.path}: cannot be written", TableError):
            append_synced(self.path, json.dumps(vars(timing)))
        self._add(timing)
