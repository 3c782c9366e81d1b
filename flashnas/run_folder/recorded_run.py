"""A run folder read back, and the answer in it of a search that ranks by full trainings."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypedDict, get_type_hints, is_typeddict

import pandas as pd

from flashnas.algorithms.trial import DEFAULT, FULL, OBJECTIVES, QUALITY, STATES, Trial
from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.foreign import check_inside
from flashnas.base.text import shown
from flashnas.run_folder.front import read_front
from flashnas.run_folder.layout import (
    CONFIG,
    FRONT,
    TRAINED,
    TRIALS,
    WEIGHTS,
    missing_plugins_named,
    read_config,
    read_trials,
)

COMPARED = ("complete", "reused", "expected")  # states of networks that were compared


_Section = dict[str, Any] | None


class _Config(TypedDict, total=False):
    """What run.yaml holds where the entries are there, besides plain values that are only shown."""

    options: _Section
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
            with missing_plugins_named(path):
                front = read_front(path)
            convert(config, _Config, error=RunError, finite=False)
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
    def budget_ms(self) -> float | None:
        """On the latency of the whole request, if one was set."""
        return self._number("options", "budgets", "latency_ms")

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the front is drawn for."""
        names = self.entry("objectives")
        valid = (
            tuple(name for name in names if name in OBJECTIVES) if isinstance(names, list) else ()
        )
        return valid if len(valid) > 1 else DEFAULT

    @property
    def further_objectives(self) -> tuple[str, ...]:
        """Those besides the loss and latency_ms."""
        return tuple(name for name in self.objectives if name not in (*QUALITY, "latency_ms"))

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
        return "expected" in states and not states & {"complete", "reused"}

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
        identity = trials["hash"].where(trials["hash"] != "", trials["notation"])
        return trials[~identity.duplicated()]

    @functools.cached_property
    def answer(self) -> Answer | None:
        """What the search recommends; None where an evaluator's losses rank, or it has not
        ended. Raises RunError in one line if the entry in run.yaml is damaged."""
        entry = self.entry("answer")
        if entry is None or not self.front:
            return None
        answer = convert(entry, Answer, self.path / CONFIG, RunError, name="answer")
        for name, keys in (
            ("recommended", [answer.recommended]),
            ("above_budget", answer.above_budget),
            ("standings", [standing.hash for standing in answer.standings]),
        ):
            if unknown := [key for key in keys if key not in self.finalists]:
                config = self.config
                place = (
                    config.place("answer")
                    if isinstance(config, LocatedDict)
                    else self.path / CONFIG
                )
                raise RunError(
                    f"{place}: answer.{name} must be a network of the front; got {unknown[0]!r:.60}"
                )
        return answer

    @functools.cached_property
    def finalists(self) -> dict[str, Trial]:
        """The trials of the front by the hash of their network."""
        return {trial.hash: trial for trial in reversed(self.front)}

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
        trained = [(load_architecture(str(path)), path.parent) for path in folders]
        found = []
        for entry in self.front:
            searched = entry.architecture
            if not isinstance(searched, Architecture):
                continue
            for network, folder in trained:
                if dataclasses.replace(network, vocab=searched.vocab).hash == searched.hash:
                    found.append((entry, folder))
        return found

    def _number(self, *keys: str) -> float | None:
        """An entry of run.yaml, which people may edit, if it is a number."""
        value = self.entry(*keys)
        return (
            float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        )

    def counts(self) -> dict[str, int]:
        """Trials by state, in a fixed order, zeros included."""
        states = self.trials["state"].value_counts()
        return {state: int(states.get(state, 0)) for state in STATES}


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The trials of a frame one by one, columns as attributes."""
    yield from frame.itertuples(index=False)


class Rival(TypedDict, total=False):
    """A stack within the budget that the recommended network is compared with: what that differs
    from it in nats per token, and the probability that it is better. `ms` and `params`: of the same
    stack at the smallest width that makes up for the difference; None where none up to twice its
    width does."""

    label: str
    notation: str
    hash: str
    latency_ms: float
    difference: float
    sd: float
    probability: float
    ms: float | None
    params: float | None


class PublishedModel(TypedDict):
    """A published model with the vocabulary of the space. difference, sd, probability: its expected
    full loss less that of the recommended network, and the probability that it is better; recall,
    silence: as of a trial. latency_ms: None where the table does not answer for it."""

    name: str
    latency_ms: float | None
    params: float
    difference: float
    sd: float
    probability: float
    recall: float | None
    silence: float


class FullTraining(TypedDict):
    """What the planned training costs, by `full_training_flops`."""

    tokens: float
    flops: float
    h100_hours: float
    utilisation: float


class Bought(TypedDict):
    """A purchase of trainings: the networks, what they cost, the nats by which the recommendation
    was expected to become better, and what was recommended before and after it."""

    networks: list[str]
    flops: float
    gain: float
    before: str
    after: str


class Pilot(TypedDict, total=False):
    """The next trainings that are worth buying: networks as they are trained, their parameters, the
    tokens of each, what all of them cost, and the nats by which the recommendation is expected to
    become better."""

    networks: list[str]
    params: list[float]
    tokens: float
    flops: float
    h100_hours: float
    gain: float


class Claims(TypedDict, total=False):
    """What publications say of a front that own trainings alone rank: the network that they would
    recommend, its expected full loss less that of the recommended one, and how many pairs of the
    front they order alike."""

    hash: str
    difference: float
    sd: float
    pairs: int
    alike: int


class Reasons(TypedDict, total=False):
    """The parts of the difference to the pure stack, in nats per token."""

    size: float
    shape: float
    mix: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One network of the front beside the recommended one. difference, sd: expected full loss less
    that of the recommended network, nats per token. best: probability of the lowest full loss among
    all that the answer names. tied: with the recommended one."""

    hash: str
    difference: float
    sd: float
    best: float
    tied: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search recommends: a network, by its hash.

    standings: of all networks of the front, fastest first. baselines: of the pure stacks. cheapest:
    the fastest network of those tied with the recommended one and itself. pure: the best pure stack;
    transformer: the best stack of attention. reasons: for the difference to the pure stack.
    published: models of publications. training: the full one. pilot: the next trainings that are
    worth buying. claims: of a search without publications. These are empty where there is nothing
    to say. limit: what keeps the recommended network from being better: `budget`, `params`,
    `support`, the largest `width`, `depth` or `width and depth` of the space, or what else it
    holds, `space`. above_budget: networks whose latency may exceed the budget by its upper bound.
    bought: what the search trained. ranked_by: what the expected losses follow from, in words; a
    user's scorer by its name. looked_at: networks that were scored. min_recall: networks of which
    less is expected were left out. extrapolated: publications have longer or shorter trainings.

    Example:
        >>> import flashnas as fn
        >>> run = fn.load_run("my_run")
        >>> run.answer.recommended in run.finalists
        True
    """

    recommended: str
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...] = ()
    cheapest: str
    pure: Rival = field(default_factory=Rival)
    transformer: Rival = field(default_factory=Rival)
    reasons: Reasons = field(default_factory=Reasons)
    published: tuple[PublishedModel, ...] = ()
    training: FullTraining | None = None
    pilot: Pilot = field(default_factory=Pilot)
    claims: Claims = field(default_factory=Claims)
    limit: str = ""
    above_budget: tuple[str, ...] = ()
    bought: tuple[Bought, ...] = ()
    ranked_by: str = ""
    looked_at: int = 0
    min_recall: float
    train_tokens: float
    extrapolated: bool = False

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Answer).items():
            entry = getattr(self, name)
            keys = kind.__annotations__ if entry and is_typeddict(kind) else ()
            if missing := [key for key in keys if key not in entry]:
                raise ValueError(f"answer.{name} needs the key {missing[0]!r}")
        compared = [standing.hash for standing in self.standings]
        for name, key in (("recommended", self.recommended), ("cheapest", self.cheapest)):
            if key not in compared:
                raise ValueError(f"answer.{name} must be a network of the front; got {key!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in data.items()
        }

    @property
    def tied(self) -> tuple[str, ...]:
        """Networks tied with the recommended one, fastest first, without itself."""
        return tuple(
            standing.hash
            for standing in self.standings
            if standing.tied and standing.hash != self.recommended
        )
