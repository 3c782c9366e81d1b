"""Run: a run folder read back; what was asked (run.yaml), the trials in order, and the front (pareto/NN.yaml)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.hints import shown
from flashnas.base.yaml import LocatedDict, read_yaml
from flashnas.runs.front import FrontEntry, read_front
from flashnas.runs.layout import CONFIG, TRIALS, is_number, read_trials
from flashnas.search.objectives import DEFAULT, FULL, OBJECTIVES, QUALITY

if TYPE_CHECKING:
    from flashnas.runs.answer import Answer

# entries of run.yaml that are mappings; they may be missing or null
MAPPINGS = ("space", "table", "workload", "budgets", "proxy", "host", "totals", "question", "answer", "foresight")
COUNTED = ("complete", "reused", "stopped", "failed", "infeasible", "expected")  # states
SCORED = ("complete", "reused", "expected")  # states of networks that were compared


@dataclass(frozen=True)
class Run:
    """A finished or running search, as its folder holds it.

    Attributes:
        path: the run folder.
        config: run.yaml.
        trials: one row for each candidate, in the order of the trajectory; the columns are the fields of Trial, and
            one for each score.
        front: the Pareto front, fastest first; empty while the search runs.
    """

    path: Path
    config: dict[str, Any]
    trials: pd.DataFrame
    front: tuple[FrontEntry, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder; raises RunError in one line if it is not one, is damaged or holds no trial yet."""
        if not isinstance(folder, str | os.PathLike):
            raise RunError(f"a run must be the path of a folder; got {shown(folder)}")
        path = Path(folder)
        if not path.exists():
            raise RunError(f"{path}: no such folder")
        if not path.is_dir():
            raise RunError(f"{path}: a run is a folder; this is a file")
        if not (path / CONFIG).is_file():
            raise RunError(f"{path}: not a run folder (it has no {CONFIG})")
        try:
            config, front = _read_config(path / CONFIG), read_front(path)
        except FlashnasError as error:
            raise RunError(str(error)) from None
        return cls(path, config, read_trials(path / TRIALS), front)

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
        return float(value) if is_number(value) else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the front is drawn for."""
        names = self.entry("objectives")
        known = tuple(name for name in names if name in OBJECTIVES) if isinstance(names, list) else ()
        return known if len(known) > 1 else DEFAULT

    @property
    def further_objectives(self) -> tuple[str, ...]:
        """Those besides the loss, short or full, and latency_ms."""
        return tuple(name for name in self.objectives if name not in (*QUALITY, "latency_ms"))

    @property
    def quality(self) -> str:
        """The loss that ranks: `full_loss`, to expect of a full training, or `loss` of the short one."""
        return FULL if FULL in self.objectives else "loss"

    @property
    def ranks_full(self) -> bool:
        """True if the loss to expect of a full training ranks."""
        return self.quality == FULL

    @property
    def untrained(self) -> bool:
        """True if published trainings alone scored the networks, and nothing was trained."""
        states = set(self.trials["state"])
        return "expected" in states and not states & {"complete", "reused", "stopped"}

    # -- what came of it -----------------------------------------------------------------------------------------

    @functools.cached_property
    def trained(self) -> pd.DataFrame:
        """One row per network with a loss and a latency, in the order of the trajectory; repeats are left out."""
        return self._once(self.trials["loss"].notna())

    @functools.cached_property
    def scored(self) -> pd.DataFrame:
        """As `trained`, of the networks that have what ranks: these are other ones where nothing was trained."""
        return self._once(self.trials[self.quality].notna()
                          & self.trials["state"].isin(SCORED)) if self.ranks_full else self.trained

    def _once(self, wanted: pd.Series) -> pd.DataFrame:
        """The wanted trials that have a latency, each network once."""
        known = self.trials[wanted & self.trials["latency_ms"].notna()]
        identity = known["hash"].where(known["hash"] != "", known["notation"])
        return known[~identity.duplicated()]

    @functools.cached_property
    def answer(self) -> Answer | None:
        """What the search recommends; None where it does not rank by full trainings, or has not ended.

        Raises:
            RunError: in one line, if the entry in run.yaml is damaged.
        """
        entry = self.entry("answer")
        if entry is None or not self.front:
            return None
        from flashnas.runs.answer import Answer  # with the models of evidence

        try:
            answer = Answer.from_dict(entry)
            if answer.recommended not in self.finalists[1]:
                raise ValueError(f"recommended must be a network of the front; got {answer.recommended!r:.60}")
        except ValueError as error:
            raise RunError(f"{self._place('answer')}: answer.{error}") from None
        return answer

    def _place(self, key: str) -> str:
        """File and line of an entry of run.yaml."""
        return self.config.place(key) if isinstance(self.config, LocatedDict) else str(self.path / CONFIG)

    @functools.cached_property
    def finalists(self) -> tuple[dict[Any, int], dict[str, int]]:
        """Places in the front by the number of the trial, and by the hash of the network."""
        by_number: dict[Any, int] = {}
        by_hash: dict[str, int] = {}
        for place, entry in enumerate(self.front):
            by_number.setdefault(entry.origin.get("number"), place)
            by_hash.setdefault(entry.architecture.hash, place)
        return by_number, by_hash

    @property
    def baselines(self) -> pd.DataFrame:
        """The pure-operator models that have what ranks."""
        return self.scored[self.scored["origin"] == "baseline"]

    @property
    def failed(self) -> pd.DataFrame:
        """Trials whose evaluation ended without a score."""
        return self.trials[self.trials["state"] == "failed"]

    def failures(self) -> dict[str, int]:
        """Reason -> number of trials that failed with it, the most frequent first."""
        return {str(reason): int(count) for reason, count in self.failed["reason"].value_counts().items()}

    @property
    def confidence(self) -> float | None:
        """With which the budgets were to be kept, if one was asked for."""
        value = self.entry("confidence")
        return float(value) if is_number(value) else None

    def counts(self) -> dict[str, int]:
        """Trials by state, in a fixed order, zeros included."""
        states = self.trials["state"].value_counts()
        return {state: int(states.get(state, 0)) for state in COUNTED}


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The trials of a frame one by one, columns as attributes."""
    yield from frame.itertuples()


def _read_config(path: Path) -> LocatedDict:
    """run.yaml; raises RunError with file, line, rule and value."""
    config = read_yaml(path)
    for key in MAPPINGS:
        value = config.get(key)
        if value is not None and not isinstance(value, dict):
            raise RunError(f"{config.place(key)}: {key} must be a mapping; got {value!r:.60}")
    for figure, limit in (config.get("budgets") or {}).items():
        if not is_number(limit):
            raise RunError(f"{config.place('budgets')}: budgets.{figure} must be a number; got {limit!r:.60}")
    for state, count in (config.get("totals") or {}).items():
        if not is_number(count):
            raise RunError(f"{config.place('totals')}: totals.{state} must be a number; got {count!r:.60}")
    seconds = config.get("seconds")
    if seconds is not None and not is_number(seconds):
        raise RunError(f"{config.place('seconds')}: seconds must be a number; got {seconds!r:.60}")
    return config
