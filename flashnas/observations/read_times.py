"""Observed times read from files: tables of one's own, and results files as programs write them.

A results file lies in the folder of its network, beside config.json. That of llama-bench states its
requests; those of vLLM do not: their names are their workloads, such as `decode-8k.json` or
`batch=1,prompt=1024,generated=128.json`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.foreign import check_inside, read_csv, read_json, read_json_lines
from flashnas.base.text import number_of, one_of, printable, shown
from flashnas.latency.workload import Workload, load_workload
from flashnas.observations.times import MAX_MS, MIN_MS, REPEAT_SD, ObservedTime

MILLISECONDS = ("latency_ms", "ttft_ms", "tpot_ms")
REQUEST = ("batch", "prompt_tokens", "generated_tokens")
NEEDED = ("network", "program", "device")
SPREAD = ("p10_ms", "p90_ms")
COLUMNS = (*NEEDED, "workload", *REQUEST, *MILLISECONDS, *SPREAD, "source", "note")
MAX_TIMES = 200
P10_TO_P90 = 2.563  # standard deviations
RESULTS = (".json", ".jsonl")
# in a folder, beside what programs load
FILES = re.compile(r"(?!.*config\.|tokenizer|special_tokens|vocab|.*index\.).*\.(csv|jsonl?)")
GGUF_TYPE = re.compile(r"\b(?:b?f16|f32|i?q\d\w*|auto)\b")  # as llama.cpp writes them


def read_times(*paths: str | Path) -> list[ObservedTime]:
    """The times in tables, in results files, and in folders of both, in their order.

    Columns of a table: network (a notation with its width, a preset, or a config.json or a
    pareto/NN.yaml below the working directory or the folder of the table), program (such as `vllm
    0.11`), device (of the table; empty: the same), a workload (a name or
    `batch=..,prompt=..,generated=..`, or the columns batch, prompt_tokens and
    generated_tokens), and at least one of latency_ms, ttft_ms and tpot_ms, each a median. Optional:
    p10_ms and p90_ms of the first of these; source, note.

    Raises:
        ConfigError: with file, line, rule and value; also where the programs differ.
    """
    rows: list[tuple[str, Path, Any]] = []
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted([*path.glob("*"), *path.glob("*/*")])
            files = [file for file in files if FILES.fullmatch(file.name)]
            check_inside(path, files, ConfigError)
        for file in files:
            rows += [(place, file, row) for place, row in _rows(file)]
    times = [time for row in rows[:MAX_TIMES] if (time := _time(*row))]
    if not times or len(rows) > MAX_TIMES:
        raise ConfigError(
            f"{', '.join(map(printable, paths))}: must hold 1 to {MAX_TIMES} observed times; got"
            f" {len(rows):,}"
        )
    program = times[0].program
    for time in times:
        if time.program != program:
            raise ConfigError(
                f"{time.place}: program must be the same in all times, {program!r}; got"
                f" {time.program!r}: another program is another search"
            )
    return times


def _rows(file: Path) -> list[tuple[str, Any]]:
    """Lines of a table, or entries of a results file, with their places."""
    if file.suffix not in RESULTS:
        lines = read_csv(file, ConfigError, NEEDED)
        for name in lines[0][1] if lines else ():
            if name not in COLUMNS:
                raise ConfigError(one_of(f"{printable(file)}: columns", name, COLUMNS))
        return lines
    data = (read_json_lines if file.suffix == ".jsonl" else read_json)(file, ConfigError)
    entries = data if isinstance(data, list) else [data]
    return [(f"{printable(file)}:{n}", entry) for n, entry in enumerate(entries, 1)]


def _time(place: str, file: Path, row: Any) -> ObservedTime | None:
    """None for what is not the time of a request."""
    try:
        time = (_of_entry if file.suffix in RESULTS else _of_line)(row, file)
    except FlashnasError as error:
        raise ConfigError(f"{place}: {error}") from None
    return time and dataclasses.replace(time, place=place)


def _of_line(cells: Mapping[str, str], file: Path) -> ObservedTime:
    line = {name: text.strip() for name, text in cells.items()}
    if not line["program"]:
        raise ConfigError("program must not be empty")
    named = Path(line["network"])
    if os.path.lexists(named):  # a table of somebody else names no file of somewhere else
        here = Path.cwd()
        root = here if named.resolve().is_relative_to(here) else file.parent
        check_inside(root, [named, named / "config.json"], ConfigError)
    network = load_architecture(line["network"])
    requests = {name: line[name] for name in REQUEST if line.get(name)}
    if bool(requests) == bool(line.get("workload")):
        raise ConfigError(
            f"either workload or {', '.join(REQUEST)} must be given; got"
            f" {'both' if requests else 'neither'}"
        )
    written = line.get("workload") or ",".join(f"{key}={text}" for key, text in requests.items())
    times, spread = (
        {
            name: _milliseconds(name, line[name], number_of(line[name], {"": 1}))
            for name in names
            if line.get(name)
        }
        for names in (MILLISECONDS, SPREAD)
    )
    if not times:
        raise ConfigError(f"one of {', '.join(MILLISECONDS)} must not be empty")
    return ObservedTime(
        network=network,
        workload=load_workload(written),
        program=line["program"],
        device=line["device"],
        milliseconds=times,
        noise=_noise(spread),
        source=line.get("source", ""),
    )


def _noise(given: Mapping[str, float]) -> float | None:
    """The standard deviation of the logarithm that a row states, or None."""
    if not given:
        return None
    low, high = given.get("p10_ms", math.inf), given.get("p90_ms", 0.0)
    if low > high:
        raise ConfigError(
            "the spread must be p10_ms and p90_ms in this order; got"
            f" {', '.join(f'{name} {value:g}' for name, value in given.items())}"
        )
    return math.log(high / low) / P10_TO_P90


def _milliseconds(name: str, value: Any, number: float, unit: float = 1.0) -> float:
    if not MIN_MS / unit <= number <= MAX_MS / unit:  # NaN, too
        raise ConfigError(
            f"{name} must be a number from {MIN_MS / unit:g} to {MAX_MS / unit:g}; got"
            f" {shown(value)}"
        )
    return number * unit


# -- what programs write ---------------------------------------------------------------------------


def _of_entry(entry: Any, file: Path) -> ObservedTime | None:
    check_inside(file.parent, [file.parent / "config.json"], ConfigError)
    if not (file.parent / "config.json").exists():
        raise ConfigError(
            "must lie beside the config.json of its network, which flashnas export --to hf"
            " --no-weights writes"
        )
    program, workload, metric, samples, unit = _found(entry, file.stem)
    if not metric:
        return None
    if workload.batch == "max":
        raise ConfigError("the number of sequences must be stated; got max")
    times = [
        _milliseconds(metric, value, value if type(value) in (int, float) else math.nan, unit)
        for value in (samples if isinstance(samples, list) and samples else [samples])
    ]
    return ObservedTime(
        network=load_architecture(file.parent),
        workload=workload,
        program=program,
        milliseconds={metric: float(np.median(times))},
        noise=max(REPEAT_SD, float(np.std(np.log(times)))),
    )


def _in_steps(workload: Workload) -> Workload:
    """A request whose first token is drawn from the prompt, by the steps that `latency_ms` counts:
    one less. Without a prompt the first step reads the one token that the program was given."""
    if not (workload.prompt_tokens and workload.generated_tokens):
        return workload
    return dataclasses.replace(workload, generated_tokens=workload.generated_tokens - 1)


def _found(entry: Any, stem: str) -> tuple[str, Workload, str, Any, float]:
    """Program, request, what was timed (empty: nothing of a request), in repeats, and their unit in
    milliseconds."""
    match entry:
        case {"avg_latency": _, "latencies": seconds}:  # vllm bench latency
            return "vllm", _in_steps(load_workload(stem)), "latency_ms", seconds, 1e3
        case {
            "build_number": build,
            "model_type": kind,
            "n_prompt": read,
            "n_gen": written,
            "n_depth": depth,
            "samples_ns": samples,
        }:
            kind = GGUF_TYPE.findall(f"{kind} auto".lower())[0]
            workload = Workload(
                prompt_tokens=read or depth,
                generated_tokens=written,
                dtype=re.sub(r"f(?=\d)", "float", kind),
            )
            metric = "tpot_ms" if not read else "latency_ms" if written else "ttft_ms"
            if read and depth:  # a prompt behind another one is no request
                metric = ""
            unit = 1e-6 if read else 1e-6 / (written or 1)
            return f"llama.cpp {build}", workload, metric, samples, unit
    raise ConfigError(
        "must be written by vllm bench latency or llama-bench; times of other programs are rows of a CSV"
    )
