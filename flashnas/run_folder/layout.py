"""The files of a run folder: their names, the format of trials.parquet in both directions, and the
question in run.yaml by which a run is continued."""

from __future__ import annotations

import contextlib
import functools
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from flashnas.base.documents import LocatedDict, convert, fingerprint, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.foreign import parse_json_cells, read_parquet
from flashnas.base.registry import installed_plugins
from flashnas.base.text import first_line, one_of, printable, shown, without_folders
from flashnas.training.recipe import ROUNDING
from flashnas.trials.trial import COLUMNS, STATES, Trial

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C: ten times as fast

# of the run folder; a run of another format is refused
FORMAT = 4
CONFIG = "run.yaml"  # what was asked, versions, totals
JOURNAL = "journal.jsonl"  # what was decided, and every evaluation the moment it ends
TRIALS = "trials.parquet"  # the trajectory, in order
FRONT = "pareto"  # folder: NN.yaml, one file for each architecture of the front, fastest first
# in it, the recommended network, also where it is not on the front
RECOMMENDED = "recommended.yaml"
MEASURED = "measured.json"  # finalists that were timed on the device
LOCK = ".lock"  # held by the process that writes
TRAINED = "trained"  # folder: of trainings of the front
WEIGHTS = "final"  # in each of them: the folder of its weights

NAMED_FILES = ("table", "data", "tokenizer")  # options that hold a path as the user wrote it
DIGESTS = {  # entries of run.yaml, and what of them changes with their content
    "space": ("name", "hash"),
    "table": ("name", "hash", "limits"),
    "corpus": ("digest",),
    "start_from": ("digest",),
    "scorer": ("digest",),
}
HINTS = {  # what a difference to the record of a run means
    **dict.fromkeys(
        ("space", "space.name", "space.hash"), "the run folder belongs to another space"
    ),
    "table.limits": "device.yaml of the table has changed",
    "start_from.digest": "the runs hold other networks than then",
}

# columns of trials.parquet by their types
_TYPES = {name: kind for name, kind in typing.get_type_hints(Trial).items() if name in COLUMNS} | {
    "genotype": dict[str, Any]
}
WHOLE = tuple(name for name, kind in _TYPES.items() if kind == int | None)
NUMBERS = tuple(name for name, kind in _TYPES.items() if kind in (int | None, float | None))
TEXTS = tuple(name for name, kind in _TYPES.items() if kind is str)
JSON_COLUMNS = {
    name: kind for name, kind in _TYPES.items() if typing.get_origin(kind) in (dict, list)
}
COSTS = ("tokens", "train_seconds")  # of a training, which a repeat did not have
MAX_NUMBER = 1e18  # above all parameters and bytes
# without these there is nothing to show
NEEDED = ("number", "origin", "state", "notation", "loss", "latency_ms")


def _row(trial: Trial, encode: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """A trial as trials.parquet holds it. A repeated network has no cost, so that sums over the
    trials are right. encode: genotype -> Optuna parameters."""
    genotype = {} if trial.genotype is None else encode(trial.genotype)
    row = {name: getattr(trial, name) for name in COLUMNS} | {"genotype": genotype}
    row |= {name: json.dumps(row[name]) for name in JSON_COLUMNS}
    return row | (dict.fromkeys(COSTS) if trial.state == "reused" else {})


def trials_frame(
    trials: Sequence[Trial], encode: Callable[[Any], Mapping[str, Any]] = dict
) -> pd.DataFrame:
    """The trials as trials.parquet holds them. encode: genotype -> Optuna parameters."""
    frame = pd.DataFrame([_row(trial, encode) for trial in trials], columns=COLUMNS)
    return frame.astype(
        {
            **dict.fromkeys((*TEXTS, *JSON_COLUMNS, "origin", "state"), "str"),
            **dict.fromkeys(NUMBERS, "float64"),
            **dict.fromkeys(WHOLE, "Int64"),
            **dict.fromkeys(("number", "cycle"), "int64"),
        }
    )


@functools.cache
def _schema() -> pa.Schema:
    return pa.Schema.from_pandas(trials_frame([]), preserve_index=False)


def read_config(folder: Path) -> LocatedDict:
    """run.yaml of a run folder; RunError where there is none, or its format is not that of this
    version."""
    if not (folder / CONFIG).exists():
        raise RunError(f"{folder}: not a run folder (it has no {CONFIG})")
    config = read_yaml(folder / CONFIG)
    if config.get("format") != FORMAT:
        version = printable(str(config.get("flashnas") or "another version"))
        raise RunError(
            f"{folder / CONFIG}: this version reads run folders of format {FORMAT}; got"
            f" {shown(config.get('format'))}, written by flashnas {version}; read it with that, or"
            " search anew into another folder"
        )
    return config


def recorded_options(folder: Path) -> LocatedDict:
    """The options of the search that made a run folder; RunError where it holds none."""
    recorded = read_config(folder)
    options = recorded.get("options")
    if not isinstance(options, LocatedDict):
        raise RunError(
            f"{recorded.place('options')}: options must be a mapping; got {shown(options)}"
        )
    return options


@contextlib.contextmanager
def missing_plugins_named(folder: Path) -> Iterator[None]:
    """Within the block, an error over a name that a package added when the run in `folder` was
    made, and that is not installed here, is a RunError with the run and the package."""
    try:
        yield
    except FlashnasError as error:
        plugins: dict[str, list[str]] = {}
        with contextlib.suppress(FlashnasError):
            plugins = convert(read_yaml(folder / CONFIG).get("plugins", {}), dict[str, list[str]])
        here = {package.partition(" ")[0] for package in installed_plugins()}
        for package, names in plugins.items():
            name, _, version = printable(package).partition(" ")
            used = next((repr(entry) for entry in names if repr(entry) in str(error)), None)
            if used is not None and name not in here:
                raise RunError(
                    f"{folder}: needs {used} of the package {name} {version}, which is not"
                    f" installed here; pip install {name}=={version}, or its folder"
                ) from None
        raise


class TrialsTable:
    """trials.parquet while it grows: a trial that was written before is not converted again.
    encode: genotype -> Optuna parameters."""

    def __init__(self, encode: Callable[[Any], Mapping[str, Any]] = dict) -> None:
        self._encode = encode
        self._trials: list[Trial] = []
        self._table: pa.Table | None = None

    def write(self, trials: Sequence[Trial], path: Path) -> None:
        """Write all trials to `path`, as of `atomic_file`."""
        import pyarrow.parquet as pq

        same = 0
        while same < min(len(self._trials), len(trials)) and self._trials[same] is trials[same]:
            same += 1
        rows = [_row(trial, self._encode) for trial in trials[same:]]
        new = pa.Table.from_arrays(
            [  # by a frame of pandas it takes five times as long
                pa.array([row[field.name] for row in rows], field.type, from_pandas=True)
                for field in _schema()
            ],
            schema=_schema(),
        )
        if self._table is not None:
            new = pa.concat_tables([self._table.slice(0, same), new]).combine_chunks()
        self._trials, self._table = list(trials), new
        pq.write_table(new, path.absolute())  # see foreign.read_parquet


def read_trials(path: Path) -> pd.DataFrame:
    """trials.parquet in the order of the trajectory, with a further column for each score; raises
    RunError in one line if it is missing, empty or damaged."""
    if not path.exists():
        raise RunError(f"{path.parent}: the run holds no trials yet ({TRIALS} is missing)")
    return checked_trials(read_parquet(path, RunError, columns=COLUMNS), path)


def checked_trials(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The content of trials.parquet as `read_trials` gives it. path: of the file."""
    for name in NEEDED:
        if name not in frame.columns:
            raise RunError(f"{path}: not the trials of a run: column {name!r} is missing")
    if frame.empty:
        raise RunError(f"{path.parent}: the run holds no trials yet ({TRIALS} has no rows)")
    for name in COLUMNS:
        if name not in frame.columns:
            frame[name] = None
    for name in ("number", *NUMBERS):
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(
                "int64" if name == "number" else "float64"
            )
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: damaged: column {name!r}: {first_line(error)}") from None
        if (frame[name].abs() > MAX_NUMBER).any():
            raise RunError(f"{path}: damaged: column {name!r}: must hold finite numbers")
    for name in TEXTS:
        frame[name] = frame[name].fillna("").astype(str)
    if unknown := sorted({*frame["state"].astype(str)} - {*STATES}):
        raise RunError(one_of(f"{path}: damaged: column 'state':", unknown[0], STATES))
    for name, kind in JSON_COLUMNS.items():
        place = f"{path}: damaged: column {name!r}"
        empty = typing.get_origin(kind)
        frame[name] = parse_json_cells(list(frame[name]), place, RunError, empty)
        for value in frame[name]:
            convert(value, kind, place, RunError, finite=name == "scores")
    for name in sorted({name for scores in frame["scores"] for name in scores}):
        frame[name] = [float(scores.get(name, "nan")) for scores in frame["scores"]]
    return frame.sort_values("number", kind="stable").reset_index(drop=True)


def yaml_text(data: Any) -> str:
    """The text of a YAML file of a run folder."""
    return yaml.dump(as_recorded(data), Dumper=_Dumper, sort_keys=False, width=120)


def as_recorded(data: Any) -> Any:
    """As a file gives it back."""
    return json.loads(json.dumps(data, default=str))


# -- what fixes a run ---------------------------------------------------------------------------


class Identity:
    """What fixes the trajectory of a run, from its run.yaml: options by their values, what they
    name by digests. How it is computed (workers, time limits, number of trainings) is not part of
    it.

    Args:
        config: run.yaml.
        asked: names of the options that fix the trajectory.
    """

    def __init__(self, config: Mapping[str, Any], asked: Sequence[str]) -> None:
        options = _mapping(config.get("options"))
        named = {
            name: config.get(name) for name in ("workload", "evaluator", "objectives", "sampler")
        }
        self.values: dict[str, Any] = as_recorded(
            {name: options.get(name) for name in asked} | named
        )
        for name, keys in DIGESTS.items():
            entry = _mapping(config.get(name))
            self.values |= {f"{name}.{key}": entry.get(key) for key in keys}
        times = _mapping(_mapping(config.get("table")).get("observed"))
        self.values["times"] = times.get("digest")
        recipe = _mapping(config.get("recipe"))
        self.values["recipe"] = as_recorded({**recipe, **ROUNDING}) if recipe else None
        for key in NAMED_FILES:
            if isinstance(value := self.values.get(key), str):
                self.values[key] = without_folders(value)

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits; in the first line of the journal."""
        return fingerprint(self.values)

    def check_same(self, before: Identity, path: Path) -> None:
        """Raise RunError naming the first field in which the record of a run differs."""
        for key, now in self.values.items():
            if now != (then := before.values.get(key)):
                hint = f"; {HINTS[key]}" if key in HINTS else ""
                raise RunError(
                    f"{path}: {key} is {shown(then)}, but this search asks {shown(now)}{hint};"
                    " choose another --out or the same question"
                )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def front_path(run: Path, trial: Trial) -> Path:
    """The file of a trial of the front of a run folder, or of the recommended one."""
    return front_file(run / FRONT, trial)


def front_file(folder: Path, trial: Trial) -> Path:
    """The same in the folder of the front."""
    number = trial.front_number
    return folder / (RECOMMENDED if number is None else f"{number:02d}.yaml")
