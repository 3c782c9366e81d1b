"""A run folder read back: what was asked (`run.yaml`), the trials in order, and the finalists (`pareto/NN.yaml`)."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.yaml import LocatedDict, read_yaml
from flashnas.latency.metrics import PREDICTED
from flashnas.search.objectives import DEFAULT, OBJECTIVES
from flashnas.study.trial import Trial

NUMBERS = ("hidden", *PREDICTED, "loss", "bits_per_byte", "proxy_params", "tokens", "tokens_per_s", "train_seconds",
           "seed")
NEEDED = ("number", "origin", "state", "notation", "loss", "latency_ms")  # without these there is nothing to show


@dataclass(frozen=True)
class Finalist:
    """One architecture of the front. `figures` by name with units in the names; `breakdown` and `sources` may be empty.

    breakdown: one entry per kernel of one operator (operator, index, kernel, label, source, ms or ms_per_token, share).
    """

    number: int
    path: Path
    notation: str
    architecture: Architecture
    figures: dict[str, float | None]
    breakdown: list[dict[str, Any]]
    sources: dict[str, float]
    origin: dict[str, Any]
    missed: tuple[str, ...] = ()  # figures that are over their budget as measured on the device

    @property
    def name(self) -> str:
        """`P3`: its name in every figure and table of the report."""
        return f"P{self.number}"


@dataclass(frozen=True)
class Run:
    """A finished or running search as it stands on disk. columns of `trials`: the fields of Trial."""

    path: Path
    config: dict[str, Any]
    trials: pd.DataFrame
    finalists: tuple[Finalist, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder; raises RunError in one line if it is none, is damaged or holds no trial yet."""
        path = Path(folder)
        if not path.exists():
            raise RunError(f"{path}: no such folder")
        if not path.is_dir():
            raise RunError(f"{path}: a run is a folder; this is a file")
        if not (path / "run.yaml").is_file():
            raise RunError(f"{path}: not a run folder (it has no run.yaml)")
        try:
            config = read_yaml(path / "run.yaml")
            finalists = tuple(_read_finalist(file) for file in sorted((path / "pareto").glob("*.yaml"), key=_number))
        except FlashnasError as error:
            raise RunError(str(error)) from None
        return cls(path, config, _read_trials(path / "trials.parquet"), finalists)

    # -- what was asked ------------------------------------------------------------------------------------------

    def entry(self, *keys: str) -> Any:
        """A nested entry of run.yaml, or None where it is missing: `entry("table", "device")`."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def name(self) -> str:
        return str(self.entry("name") or self.path.resolve().name)

    @property
    def budget_ms(self) -> float | None:
        """The budget on the latency of the whole request, if one was set."""
        value = self.entry("budgets", "latency_ms")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the front is drawn for."""
        names = self.entry("objectives")
        known = tuple(name for name in names if name in OBJECTIVES) if isinstance(names, list) else ()
        return known if len(known) > 1 else DEFAULT

    @property
    def further_objectives(self) -> tuple[str, ...]:
        """Those besides the loss and latency_ms."""
        return tuple(name for name in self.objectives if name not in DEFAULT)

    # -- what came of it -----------------------------------------------------------------------------------------

    @functools.cached_property
    def trained(self) -> pd.DataFrame:
        """One row per network with a loss and a latency, in the order of the trajectory; repeats are left out."""
        known = self.trials[self.trials["loss"].notna() & self.trials["latency_ms"].notna()]
        identity = known["hash"].where(known["hash"] != "", known["notation"])
        return known[~identity.duplicated()]

    @property
    def baselines(self) -> pd.DataFrame:
        """The trained pure-operator models."""
        return self.trained[self.trained["origin"] == "baseline"]

    @property
    def failed(self) -> pd.DataFrame:
        """Trials whose training broke off."""
        return self.trials[self.trials["state"] == "failed"]

    @property
    def confidence(self) -> float | None:
        """With which the budgets were to be kept, if one was asked for."""
        value = self.entry("confidence")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def counts(self) -> dict[str, int]:
        """Trials by state, in a fixed order, zeros included."""
        states = self.trials["state"].value_counts()
        return {state: int(states.get(state, 0)) for state in ("complete", "reused", "failed", "infeasible")}


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The trials of a frame one by one, columns as attributes."""
    yield from frame.itertuples()


def _read_trials(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise RunError(f"{path.parent}: the run holds no trials yet (trials.parquet is missing)")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises its own, OSError and ValueError by kind of damage
        detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path}: damaged, not readable as parquet: {detail}") from None
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise RunError(f"{path}: not the trials of a run: column {missing[0]!r} is missing")
    if frame.empty:
        raise RunError(f"{path.parent}: the run holds no trials yet (trials.parquet has no rows)")
    for field in dataclasses.fields(Trial):
        if field.name not in frame.columns:
            frame[field.name] = None
    try:
        for name in NUMBERS:
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
        for name in ("label", "reason", "notation", "hash"):
            frame[name] = frame[name].fillna("").astype(str)
        for name, empty in (("curve", "[]"), ("genotype", "{}"), ("scores", "{}")):
            frame[name] = [json.loads(text) if isinstance(text, str) else json.loads(empty) for text in frame[name]]
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged: column {name!r}: {str(error).splitlines()[0]}") from None
    for name in sorted({name for scores in frame["scores"] for name in scores}):  # a column of its own for each
        frame[name] = [float(scores.get(name, "nan")) for scores in frame["scores"]]
    return frame.sort_values("number", kind="stable").reset_index(drop=True)


def _number(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdigit() else 10**9), path.stem


def _read_finalist(path: Path) -> Finalist:
    data = read_yaml(path)
    entry = data.get("architecture")
    if not path.stem.isdigit():
        raise RunError(f"{path}: finalists are numbered files such as 01.yaml")
    if not isinstance(entry, dict):
        raise RunError(f"{data.place()}: a finalist needs the key 'architecture' (a mapping)")
    try:
        architecture = Architecture.from_dict(entry)
    except (FlashnasError, TypeError) as error:
        raise RunError(f"{data.place('architecture')}: {error}") from None
    figures = {name: float(value) if isinstance(value, int | float) else None
               for name, value in _mapping(data, "figures").items()}
    breakdown = [dict(row) for row in data.get("breakdown") or [] if isinstance(row, dict)]
    sources = {str(name): float(share) for name, share in _mapping(data, "sources").items()
               if isinstance(share, int | float)}
    return Finalist(int(path.stem), path, str(data.get("notation") or architecture.notation), architecture, figures,
                    breakdown, sources, dict(_mapping(data, "origin")),
                    tuple(str(name) for name in data.get("missed") or ()))


def _mapping(data: LocatedDict, key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
