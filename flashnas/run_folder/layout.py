"""The files of a run folder: their names, trials.parquet and the front in both directions, and the
question in run.yaml by which a run is continued."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
import pyarrow as pa
import yaml

from flashnas.architecture import Architecture
from flashnas.base.documents import LocatedDict, convert, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.foreign import check_count, parse_json, read_parquet
from flashnas.base.registry import code_name
from flashnas.base.system import atomic_file, atomic_folder, write_synced
from flashnas.base.text import first_line, one_of, printable, shown, without_folders
from flashnas.training.recipe import ROUNDING
from flashnas.trials.trial import (
    COLUMNS,
    EXPECTED_FIGURES,
    FRONT_FIGURES,
    METRICS_ON_FRONT,
    STATES,
    Trial,
)

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C: ten times as fast

# of the run folder; a run of another format is refused
FORMAT = 4
CONFIG = "run.yaml"  # what was asked, versions, totals
JOURNAL = "journal.jsonl"  # what was decided, and every evaluation and timing when it ends
CYCLE_SIZE = 10  # of 0.3.0, by default; its samplers drew as many before they learnt
TRIALS = "trials.parquet"  # the trajectory, in order
FRONT = "pareto"  # folder: NN.yaml, one file for each architecture of the front, fastest first
# in it, the recommended network, also where it is not on the front
RECOMMENDED = "recommended.yaml"
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
# columns of trials.parquet by their types
_TYPES = {name: kind for name, kind in typing.get_type_hints(Trial).items() if name in COLUMNS} | {
    "genotype": dict[str, Any]
}
WHOLE = tuple(name for name, kind in _TYPES.items() if kind in (int, int | None))
NUMBERS = (*WHOLE, *(name for name, kind in _TYPES.items() if kind == float | None))
TEXTS = tuple(name for name, kind in _TYPES.items() if kind is str)
JSON_COLUMNS = {  # empty where the value is
    name: kind for name, kind in _TYPES.items() if typing.get_origin(kind) in (dict, list)
}
MAX_NUMBER = 1e18  # above all parameters and bytes

_Section = dict[str, Any] | None


class _Options(TypedDict, total=False):
    budgets: dict[str, float]


class _Schedule(TypedDict):
    start: int
    cycle_size: int


class _Config(TypedDict, total=False):
    """What run.yaml holds where the entries are there, besides plain values that are only shown."""

    options: _Options | None
    objectives: list[str] | None
    space: _Section
    table: _Section
    workload: _Section
    recipe: _Section
    corpus: _Section
    host: _Section
    totals: dict[str, float] | None
    answer: _Section
    scorer: _Section
    seconds: float | None
    schedule: _Schedule | None


def write_trials(
    path: Path, trials: Sequence[Trial], encode: Callable[[Any], Mapping[str, Any]] = dict
) -> None:
    """Write trials.parquet. encode: genotype -> Optuna parameters."""
    import pyarrow.parquet as pq

    table = {}
    for name in COLUMNS:
        values: list[Any] = [getattr(trial, name) for trial in trials]
        if name == "genotype":
            values = [None if genotype is None else encode(genotype) for genotype in values]
        if name in JSON_COLUMNS:
            values = [json.dumps(value) if value else None for value in values]
        kind = pa.int64() if name in WHOLE else pa.float64() if name in NUMBERS else pa.string()
        table[name] = pa.array(values, kind, from_pandas=True)  # NaN as what is missing
    with atomic_file(path) as part:
        pq.write_table(pa.table(table), part.absolute())  # see foreign.read_parquet


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
    convert(config, _Config, error=RunError, finite=False)
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


def read_trials(path: Path) -> pd.DataFrame:
    """trials.parquet in the order of the trajectory, with a further column for each score; raises
    RunError in one line if it is missing, empty or damaged."""
    if not path.exists():
        raise RunError(f"{path.parent}: the run holds no trials yet ({TRIALS} is missing)")
    frame = read_parquet(path, RunError, columns=COLUMNS)
    for name in COLUMNS:
        if name not in frame.columns:
            raise RunError(f"{path}: not the trials of a run: column {name!r} is missing")
    if frame.empty:
        raise RunError(f"{path.parent}: the run holds no trials yet ({TRIALS} has no rows)")
    for name in NUMBERS:
        place = f"{path}: damaged: column {name!r}:"
        try:
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
            if (frame[name].abs() > MAX_NUMBER).any():
                raise ValueError("must hold finite numbers")
            if name in ("number", "cycle"):
                frame[name] = frame[name].astype("int64")
        except (ValueError, TypeError) as error:
            raise RunError(f"{place} {first_line(error)}") from None
    for name in TEXTS:
        frame[name] = frame[name].fillna("").astype(str)
    if unknown := sorted({*frame["state"].astype(str)} - {*STATES}):
        raise RunError(one_of(f"{path}: damaged: column 'state':", unknown[0], STATES))
    for name, kind in JSON_COLUMNS.items():
        place = f"{path}: damaged: column {name!r}"
        cells = list(frame[name])
        check_count("\n".join(cell for cell in cells if isinstance(cell, str)), place, RunError)
        frame[name] = [
            convert(
                parse_json(cell, place, RunError), kind, place, RunError, finite=name == "scores"
            )
            if isinstance(cell, str)
            else typing.get_origin(kind)()
            for cell in cells
        ]
    for name in sorted({name for scores in frame["scores"] for name in scores}):
        frame[name] = [float(scores.get(name, "nan")) for scores in frame["scores"]]
    return frame


def yaml_text(data: Any) -> str:
    """The text of a YAML file of a run folder."""
    return yaml.dump(as_recorded(data), Dumper=_Dumper, sort_keys=False, width=120)


def as_recorded(data: Any) -> Any:
    """As a file gives it back."""
    return json.loads(json.dumps(data, default=str))


# -- what fixes a run ---------------------------------------------------------------------------


def identity_of(config: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """What fixes the trajectory of a run, from its run.yaml: options by their values, what they name by
    digests. How it is computed (workers, time limits, number of trainings) is not part of it.

    Args:
        config: run.yaml.
        asked: names of the options that fix the trajectory.
    """
    options, recipe = config.get("options") or {}, config.get("recipe")
    values = {name: options.get(name) for name in asked}
    values |= {
        name: config.get(name) for name in ("workload", "evaluator", "objectives", "sampler")
    }
    if "cycle_size" in values:  # None: that of the schedule
        values["cycle_size"] = values["cycle_size"] or CYCLE_SIZE
    for name, keys in DIGESTS.items():
        entry = config.get(name) or {}
        values |= {f"{name}.{key}": entry.get(key) for key in keys}
    values["times"] = ((config.get("table") or {}).get("observed") or {}).get("digest")
    values["recipe"] = {**recipe, **ROUNDING} if recipe else None
    for key in NAMED_FILES:
        if isinstance(value := values.get(key), str):
            values[key] = without_folders(value)
    return dict(as_recorded(values))


def front_path(run: Path, trial: Trial) -> Path:
    """The file of a trial of the front of a run folder, or of the recommended one."""
    number = trial.front_number
    return run / FRONT / (RECOMMENDED if number is None else f"{number:02d}.yaml")


# -- the front: a file for each network ------------------------------------------------------------

# fields of a trial that its file holds where they are known, besides the network
HELD = (
    *("notation", "hash", "hidden", *METRICS_ON_FRONT, *EXPECTED_FIGURES, *FRONT_FIGURES),
    *("scores", "sources", "operators_ms", "missed", "runs_in"),
    *("number", "label", "origin", "state"),
)
UNKNOWN = Trial()


@dataclass(frozen=True)
class _File:
    """What a file has besides fields of a trial. made_by: of a network of a foreign space."""

    architecture: dict[str, Any]
    made_by: str = ""


def write_front(
    folder: Path, trials: Sequence[Trial], recommended: Trial | None = None
) -> list[Trial]:
    """Replace the folder of a front; returns the trials as `read_front` does. recommended: has a
    file of its own, too."""
    numbered = [_held(trial, number) for number, trial in enumerate(trials, start=1)]
    beside = [] if recommended is None else [_held(recommended, None)]
    with atomic_folder(folder) as fresh:
        for trial in (*numbered, *beside):
            network = trial.architecture
            held = {name: getattr(trial, name) for name in HELD}
            entry = {key: value for key, value in held.items() if value != getattr(UNKNOWN, key)}
            if isinstance(network, ForeignNetwork):
                entry["made_by"] = network.made_by
            entry["architecture"] = network.to_dict()
            write_synced(fresh / front_path(folder, trial).name, yaml_text(entry))
    return numbered


def _held(trial: Trial, number: int | None) -> Trial:
    """What a file holds of a trial; a network of a foreign space as data."""
    network = trial.architecture
    if not isinstance(network, Architecture | ForeignNetwork):
        made_by = code_name(type(network))
        network = ForeignNetwork(made_by, network.notation, network.hash, network.to_dict())
    held = {name: getattr(trial, name) for name in HELD}
    return Trial(architecture=network, front_number=number, **held)


def read_front(run: Path) -> tuple[Trial, ...]:
    """The front in a run folder, fastest first.

    Raises:
        RunError, ConfigError: a file is damaged; with file, line, rule and value.
    """
    files = [path for path in (run / FRONT).glob("*.yaml") if path.name != RECOMMENDED]
    if others := [path for path in files if not path.stem.isdigit()]:
        raise RunError(f"{others[0]}: files of the front have numbers as names, such as 01.yaml")
    return tuple(read_trial(path) for path in sorted(files, key=lambda path: int(path.stem)))


def read_trial(path: Path) -> Trial:
    """A network in the folder of a front."""
    data = read_yaml(path)
    trial = convert(data, Trial, error=RunError, finite=False)
    file = convert(data, _File, error=RunError)
    network: Architecture | ForeignNetwork
    if file.made_by:
        network = ForeignNetwork(file.made_by, trial.notation, trial.hash, file.architecture)
    else:
        try:
            network = Architecture.from_dict(file.architecture)
        except (FlashnasError, TypeError) as error:
            raise RunError(f"{data.place('architecture')}: {error}") from None
    number = int(path.stem) if path.stem.isdigit() else None
    return dataclasses.replace(trial, architecture=network, front_number=number)


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of a foreign space as a run records it: data without its class, which reading does
    not import."""

    made_by: str  # "module:class"
    notation: str
    hash: str
    data: Mapping[str, Any] = field(hash=False)
    operators: tuple[Any, ...] = ()  # it has none that flashnas knows

    def to_dict(self) -> dict[str, Any]:
        return dict(self.data)
