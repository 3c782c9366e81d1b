"""A run folder read back, and the answer in it of a search that ranks by full trainings."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.documents import convert
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.foreign import check_inside, read_json
from flashnas.base.system import write_atomic
from flashnas.base.text import shown
from flashnas.run_folder.layout import (
    CONFIG,
    FRONT,
    RECOMMENDED,
    TRAINED,
    TRIALS,
    WEIGHTS,
    WHOLE,
    front_path,
    read_config,
    read_front,
    read_trial,
    read_trials,
)
from flashnas.run_folder.recorded_answer import Answer
from flashnas.trials.pareto import DEFAULT, FULL, OBJECTIVES
from flashnas.trials.trial import COLUMNS, Trial

COMPARED = ("complete", "expected")  # states of networks that were compared


@dataclass(frozen=True)
class RecordedRun:
    """A finished or running search, as its folder holds it.

    config: run.yaml. trials: one row for each candidate, in the order of the trajectory; the
    columns are the fields of Trial, and one for each score. front: fastest first; empty while the
    search runs.
    """

    path: Path
    config: dict[str, Any]
    trials: pd.DataFrame
    front: tuple[Trial, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder; raises RunError in one line if it is not one, is damaged or holds no
        trial yet."""
        if not isinstance(folder, str | os.PathLike):
            raise RunError(f"a run must be the path of a folder; got {shown(folder)}")
        path = Path(folder)
        if not path.exists():
            raise RunError(f"{path}: no such folder")
        if not path.is_dir():
            raise RunError(f"{path}: a run is a folder; this is a file")
        try:
            check_inside(
                path, [path / CONFIG, path / TRIALS, *(path / FRONT).glob("*.yaml")], RunError
            )
            config = read_config(path)
            front = read_front(path)
        except FlashnasError as error:
            raise RunError(str(error)) from None
        return cls(path, config, read_trials(path / TRIALS), front)

    # -- what was asked ----------------------------------------------------------------------------

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
    def budgets(self) -> dict[str, float]:
        """By the names of metrics."""
        return self.entry("options", "budgets") or {}

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the front is drawn for."""
        valid = tuple(name for name in self.entry("objectives") or () if name in OBJECTIVES)
        return valid if len(valid) > 1 else DEFAULT

    @property
    def quality(self) -> str:
        """The loss that ranks."""
        return FULL if FULL in self.objectives else "loss"

    @property
    def ranks_full(self) -> bool:
        return self.quality == FULL

    @property
    def untrained(self) -> bool:
        """True if published trainings alone scored the networks."""
        states = set(self.trials["state"])
        return "expected" in states and "complete" not in states

    # -- what came of it ---------------------------------------------------------------------------

    @functools.cached_property
    def trained(self) -> pd.DataFrame:
        """Each network with a loss and a latency once, in the order of the trajectory."""
        return self._once(self.trials["loss"].notna())

    @functools.cached_property
    def scored(self) -> pd.DataFrame:
        """As `trained`, of the networks that have what ranks."""
        return (
            self._once(self.trials[self.quality].notna() & self.trials["state"].isin(COMPARED))
            if self.ranks_full
            else self.trained
        )

    def _once(self, mask: pd.Series) -> pd.DataFrame:
        """The trials of a mask that have a latency, each network once."""
        trials = self.trials[mask & self.trials["latency_ms"].notna()]
        return trials[~trials["hash"].duplicated()]

    @functools.cached_property
    def answer(self) -> Answer | None:
        """What the search recommends; None where an evaluator's losses rank, or it has not
        ended. Raises RunError in one line if the entry in run.yaml is damaged."""
        entry = self.entry("answer")
        if entry is None or not self.front:
            return None
        return convert(entry, Answer, self.path / CONFIG, RunError, name="answer")

    @functools.cached_property
    def recommended(self) -> Trial | None:
        """The network that the answer recommends, on the front or not; None for a search without an
        answer. Raises RunError where the folder does not hold it."""
        if self.answer is None:
            return None
        wanted = self.answer.recommended
        path = self.path / FRONT / RECOMMENDED
        beside = [read_trial(path)] if path.exists() else []
        for trial in (*self.front, *beside):
            if trial.hash == wanted:
                return trial
        raise RunError(
            f"{self.path / CONFIG}: answer.recommended must be a network of {FRONT}/; got"
            f" {shown(wanted)}"
        )

    @functools.cached_property
    def finalists(self) -> dict[str, Trial]:
        """The trials of the front, and the recommended one, by the hash of their network."""
        further = [] if self.recommended is None else [self.recommended]
        return {trial.hash: trial for trial in (*further, *reversed(self.front))}

    @property
    def baselines(self) -> pd.DataFrame:
        """The pure-operator models that have what ranks."""
        return self.scored[self.scored["origin"] == "baseline"]

    @property
    def failed(self) -> pd.DataFrame:
        """Trials whose evaluation ended without a score."""
        return self.trials[self.trials["state"] == "failed"]

    def trained_models(self) -> list[tuple[Trial, Path]]:
        """Networks of the front in `RUN/trained/NN`, with the folder of their weights. Only the
        vocabulary may be another one, since a training takes that of its text."""
        folders = sorted((self.path / TRAINED).glob(f"*/{WEIGHTS}/architecture.yaml"))
        check_inside(self.path, folders, RunError)
        found = []
        for path in folders:
            network = load_architecture(str(path))
            for entry in self.finalists.values():
                own = entry.architecture
                if (
                    isinstance(own, Architecture)
                    and dataclasses.replace(network, vocab=own.vocab).hash == own.hash
                ):
                    found.append((entry, path.parent))
        return found


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The trials of a frame one by one, columns as attributes."""
    yield from frame.itertuples(index=False)


def trial_of(row: Any) -> Trial:
    """A trial from its row."""
    figures = {name: getattr(row, name) for name in COLUMNS}
    known: dict[str, Any] = {
        name: value for name, value in figures.items() if value is not None and value == value
    }
    known |= {name: int(known[name]) for name in WHOLE if name in known}
    return Trial(**known)


# -- networks of a run that were trained for longer ------------------------------------------------


EVALUATION = "eval.json"  # beside weights: what `flashnas eval` found


def chosen_weights(folder: Path) -> Path:
    """The weights of the network that a run recommends, or of the lowest loss of its front; raises
    RunError if it has not been trained."""
    run = RecordedRun.load(folder)
    if not run.front:
        raise RunError(f"{folder}: the run has no front yet, so that there is no network to take")
    wanted = run.recommended or min(
        run.front, key=lambda entry: math.inf if entry.loss is None else entry.loss
    )
    for entry, weights in run.trained_models():
        if entry == wanted:
            return weights
    path = front_path(folder, wanted)
    raise RunError(
        f"{folder}: its network {wanted.name} has not been trained; train it with flashnas"
        f" train {path} --out {folder / TRAINED / path.stem}"
    )


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """Of a text. lossy: documents that the tokenizer does not give back as they are."""

    name: str
    sha256: str
    bits_per_byte: float
    nats_per_token: float
    bytes: int
    tokens: int
    documents: int
    lossy: int
    window: int


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """What `flashnas eval` found of weights: texts by their sha256."""

    weights_sha256: str
    texts: dict[str, TextResult] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ModelEvaluation | None:
        """That beside the weights, or None; raises RunError for a damaged file."""
        path = folder / EVALUATION
        if not path.exists():
            return None
        return convert(read_json(path, RunError), cls, path, RunError)

    def write(self, folder: Path) -> None:
        write_atomic(folder / EVALUATION, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
