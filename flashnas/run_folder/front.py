"""The front of a run folder, read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.documents import convert, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.run_folder.layout import FRONT, RECOMMENDED
from flashnas.trials.objectives import minimised, ranking
from flashnas.trials.trial import EXPECTED_FIGURES, FRONT_FIGURES, METRICS_ON_FRONT, Origin, Trial

SHOWN = 12  # networks of a front that a table has
_FIGURES = (*METRICS_ON_FRONT, *EXPECTED_FIGURES, *FRONT_FIGURES)
# fields of a trial that its file holds, besides the network
HELD = (
    *("number", "label", "origin", "state", "notation", "hash", "hidden", "front_number"),
    *("scores", "operators_ms", "sources", "missed", "runs_in", *_FIGURES),
)


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """Which trial of the run a network of the front is."""

    number: int = -1
    label: str = "search"
    origin: Origin = "search"


@dataclass(frozen=True, kw_only=True)
class _File:
    """What a file of the front holds."""

    architecture: dict[str, Any]
    made_by: str | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    operators_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: dict[str, float] = field(default_factory=dict)
    origin: _Origin = field(default_factory=_Origin)
    missed: tuple[str, ...] | None = None
    runs_in: dict[str, str] | None = None
    notation: str = ""
    hash: str = ""


def read_front(run: Path) -> tuple[Trial, ...]:
    """The front in a run folder, fastest first.

    Raises:
        RunError, ConfigError: a file is damaged; with file, line, rule and value.
    """
    files = sorted((run / FRONT).glob("*.yaml"), key=lambda path: path.stem.zfill(9))
    return tuple(read_trial(path) for path in files if path.name != RECOMMENDED)


def read_trial(path: Path) -> Trial:
    """A network in the folder of a front."""
    if not path.stem.isdigit() and path.name != RECOMMENDED:
        raise RunError(f"{path}: files of the front have numbers as names, such as 01.yaml")
    data = read_yaml(path)
    file = convert(data, _File, error=RunError, finite=False)
    network: Architecture | ForeignNetwork
    if file.made_by is not None:
        network = ForeignNetwork(file.made_by, file.notation, file.hash, file.architecture)
    else:
        try:
            network = Architecture.from_dict(file.architecture)
        except (FlashnasError, TypeError) as error:
            raise RunError(f"{data.place('architecture')}: {error}") from None
    origin = file.origin
    figures: dict[str, Any] = {name: file.figures.get(name) for name in _FIGURES}
    untrained = figures["loss"] is None and figures["full_loss"] is not None
    return Trial(
        number=origin.number,
        label="" if origin.label == "search" else origin.label,
        origin=origin.origin,
        state="expected" if untrained else "complete",
        notation=file.notation or network.notation,
        hash=file.hash or network.hash,
        hidden=getattr(network, "hidden", None),
        architecture=network,
        front_number=int(path.stem) if path.stem.isdigit() else None,
        scores={
            name: value
            for name, value in file.figures.items()
            if name not in _FIGURES and value is not None
        },
        operators_ms=file.operators_ms,
        sources=file.sources,
        missed=file.missed,
        runs_in=file.runs_in,
        **figures,
    )


def thinned(
    front: Sequence[Trial],
    objectives: Sequence[str],
    count: int = SHOWN,
    keep: Collection[str] = (),
) -> list[Trial]:
    """At most `count` networks that stand for a front, in its order: the best one in each objective,
    those whose hash is in `keep`, and, one after the other, the one farthest from all of these. Of
    equal ones the first."""
    if len(front) <= count:
        return list(front)
    figures = [[getattr(trial, ranking(name)) for name in objectives] for trial in front]
    values = np.nan_to_num(np.array(figures, dtype=float))
    values *= [minimised(name, 1.0) for name in objectives]
    span = np.ptp(values, axis=0)
    values = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    order = [
        np.lexsort((*np.delete(values, end, 1).T, values[:, end])) for end in range(len(objectives))
    ]
    kept = [place for place, trial in enumerate(front) if trial.hash in keep]
    chosen = list(dict.fromkeys([*(int(places[0]) for places in order), *kept]))
    room = np.min([np.linalg.norm(values - values[place], axis=1) for place in chosen], axis=0)
    while len(chosen) < count and room.max() > 0:
        chosen.append(int(room.argmax()))
        room = np.minimum(room, np.linalg.norm(values - values[chosen[-1]], axis=1))
    return [front[place] for place in sorted(chosen)]


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
