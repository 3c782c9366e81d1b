"""Observed times: networks that somebody has run in a program on a device. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.foreign import read_csv
from flashnas.base.text import INTERVAL_90, number_of, one_of, printable, shown
from flashnas.latency.calibration import SOURCE_SPREAD
from flashnas.latency.workload import Workload, load_workload
from flashnas.observations.observation import Observation

MILLISECONDS = ("latency_ms", "ttft_ms", "tpot_ms")
REQUEST = ("batch", "prompt_tokens", "generated_tokens")
NEEDED = ("network", "program", "device")
SPREAD = ("p10_ms", "p90_ms", "sd_ms")
COLUMNS = (*NEEDED, "workload", *REQUEST, *MILLISECONDS, *SPREAD, "source", "note")
MAX_TIMES = 200
MAX_MS = 1e9  # eleven days
# standard deviation of ln(time) where none is stated: a median in another process
REPEAT_SD = SOURCE_SPREAD["measured"] / INTERVAL_90
P10_TO_P90 = 2.563  # standard deviations


@dataclass(frozen=True, kw_only=True)
class ObservedTime(Observation):
    """The time of a network under a workload.

    milliseconds: of latency_ms, ttft_ms and tpot_ms (latency/metrics.py) those that were observed.
    noise: standard deviation of the logarithm of a time. device: empty for that of the table.

    Example:
        >>> import flashnas as fn
        >>> from flashnas.latency.workload import load_workload
        >>> network = fn.Architecture.parse("2048: 12x(a f)")
        >>> time = fn.ObservedTime(operators="12x(a f)", network=network, workload=load_workload("decode-8k"),
        ...                        program="vllm 0.32", milliseconds={"latency_ms": 14_200.0})
        >>> time.milliseconds["latency_ms"]
        14200.0
    """

    network: Architecture
    workload: Workload
    program: str
    device: str = ""
    milliseconds: Mapping[str, float]

    @property
    def sd(self) -> float:
        """noise, or the usual one of a repeat."""
        return REPEAT_SD if self.noise is None else self.noise

    @property
    def facts(self) -> str:
        """All that a prediction depends on: the same for the same observation."""
        requests = dataclasses.replace(self.workload, name="").to_dict()
        times = sorted(self.milliseconds.items())
        return repr((self.network.hash, requests, self.program, times, self.sd))


def read_times(path: str | Path) -> list[ObservedTime]:
    """The rows of a CSV, in its order.

    Columns: network (a notation with its width, a preset, a config.json or a pareto/NN.yaml),
    program (such as `vllm 0.11`, the same in all rows), device (of the table; empty: the same), a
    workload (a name or `batch=..,prompt=..,generated=..`, or the columns batch, prompt_tokens and
    generated_tokens), and at least one of latency_ms, ttft_ms and tpot_ms, each a median. Optional:
    p10_ms and p90_ms, or sd_ms, of the first of these; source, note.

    Raises:
        ConfigError: with file, line, rule and value.
    """
    lines = read_csv(path, ConfigError, NEEDED)
    if not 0 < len(lines) <= MAX_TIMES:
        raise ConfigError(
            f"{printable(path)}: must hold 1 to {MAX_TIMES} observed times; got {len(lines):,}"
        )
    for name in lines[0][1]:
        if name not in COLUMNS:
            raise ConfigError(one_of(f"{printable(path)}: columns", name, COLUMNS))
    times = [
        _time(place, {name: text.strip() for name, text in line.items()}) for place, line in lines
    ]
    program = times[0].program
    for time in times:
        if time.program != program:
            raise ConfigError(
                f"{time.place}: program must be the same in all rows, {program!r}; got"
                f" {time.program!r}: another program needs a file of its own"
            )
    return times


def _time(place: str, line: dict[str, str]) -> ObservedTime:
    if not line["program"]:
        raise ConfigError(f"{place}: program must not be empty")
    try:
        network = load_architecture(line["network"])
        workload = _workload(line)
    except FlashnasError as error:
        raise ConfigError(f"{place}: {error}") from None
    milliseconds = {
        name: _milliseconds(place, name, line[name]) for name in MILLISECONDS if line.get(name)
    }
    if not milliseconds:
        raise ConfigError(f"{place}: one of {', '.join(MILLISECONDS)} must not be empty")
    return ObservedTime(
        operators=network.notation.partition(": ")[2],
        network=network,
        workload=workload,
        program=line["program"],
        device=line["device"],
        milliseconds=milliseconds,
        noise=_noise(place, line, next(iter(milliseconds.values()))),
        source=line.get("source", ""),
        place=place,
    )


def _workload(line: dict[str, str]) -> Workload:
    requests = {name: line[name] for name in REQUEST if line.get(name)}
    if bool(requests) == bool(line.get("workload")):
        raise ConfigError(
            f"either workload or {', '.join(REQUEST)} must be given; got"
            f" {'both' if requests else 'neither'}"
        )
    return load_workload(
        line.get("workload") or ",".join(f"{name}={text}" for name, text in requests.items())
    )


def _noise(place: str, line: dict[str, str], milliseconds: float) -> float | None:
    """The standard deviation of the logarithm that a row states, or None."""
    given = {name: _milliseconds(place, name, line[name]) for name in SPREAD if line.get(name)}
    match sorted(given):
        case []:
            return None
        case ["sd_ms"]:
            return given["sd_ms"] / milliseconds
        case ["p10_ms", "p90_ms"] if given["p10_ms"] <= given["p90_ms"]:
            return math.log(given["p90_ms"] / given["p10_ms"]) / P10_TO_P90
    raise ConfigError(
        f"{place}: the spread must be sd_ms alone, or p10_ms and p90_ms in this order; got"
        f" {', '.join(f'{name} {value:g}' for name, value in given.items())}"
    )


def _milliseconds(place: str, name: str, text: str) -> float:
    number = number_of(text, {"": 1})
    if not number <= MAX_MS:  # NaN, too
        raise ConfigError(
            f"{place}: {name} must be a number above 0 and at most {MAX_MS:g}; got {shown(text)}"
        )
    return number
