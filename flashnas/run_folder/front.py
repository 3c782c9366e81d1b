"""The front of a run: a list of trials, one file pareto/NN.yaml for each, fastest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.algorithms.trial import (
    EXPECTED_FIGURES,
    FRONT_FIGURES,
    METRICS_ON_FRONT,
    Origin,
    Trial,
)
from flashnas.architecture import Architecture
from flashnas.base.documents import convert, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.system import atomic_folder, write_synced
from flashnas.run_folder.layout import FRONT, yaml_text

_FIGURES = (*METRICS_ON_FRONT, *EXPECTED_FIGURES, *FRONT_FIGURES)
# fields of a trial that its file holds, besides the network
_HELD = (
    *("number", "label", "origin", "state", "notation", "hash", "hidden", "front_number"),
    *("scores", "operators_ms", "sources", "missed", "runs_in", *_FIGURES),
)


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


def origin_of(trial: Trial) -> dict[str, Any]:
    """Which trial of the run a network of a front is."""
    return {
        "number": trial.number,
        "label": trial.label or "search",
        **({} if trial.origin == "search" else {"origin": trial.origin}),
    }


def programs_entries(trial: Trial) -> dict[str, Any]:
    """`missed` and `runs_in`, where they are known."""
    return {
        **({} if trial.missed is None else {"missed": list(trial.missed)}),
        **({} if trial.runs_in is None else {"runs_in": trial.runs_in}),
    }


def as_recorded_network(network: Any) -> Architecture | ForeignNetwork:
    """A network as the front holds it."""
    if isinstance(network, Architecture | ForeignNetwork):
        return network
    made_by = f"{type(network).__module__}:{type(network).__qualname__}"
    return ForeignNetwork(made_by, network.notation, network.hash, network.to_dict())


def programs_of(network: Any) -> dict[str, str] | None:
    """`runs_in` of a network; None of a network of a foreign space."""
    if not isinstance(network, Architecture):
        return None
    from flashnas.formats.programs import exports_of  # loads torch

    return exports_of(network)


def front_path(run: Path, trial: Trial) -> Path:
    """The file of a trial of the front of a run folder."""
    return run / FRONT / f"{trial.front_number:02d}.yaml"


def write_front(folder: Path, trials: Sequence[Trial]) -> list[Trial]:
    """Replace the folder of a front; returns the trials as `read_front` does."""
    numbered = [
        dataclasses.replace(trial, front_number=number)
        for number, trial in enumerate(trials, start=1)
    ]
    with atomic_folder(folder) as fresh:
        for trial in numbered:
            network = as_recorded_network(trial.architecture)
            made_by = {"made_by": network.made_by} if isinstance(network, ForeignNetwork) else {}
            entry = {
                "notation": trial.notation,
                "hash": trial.hash,
                **made_by,
                "architecture": network.to_dict(),
                "figures": trial.figures,
                "sources": trial.sources,
                "origin": origin_of(trial),
                **programs_entries(trial),
                "operators_ms": trial.operators_ms,
            }
            write_synced(fresh / f"{trial.front_number:02d}.yaml", yaml_text(entry))
    return [
        Trial(
            architecture=as_recorded_network(trial.architecture),
            **{name: getattr(trial, name) for name in _HELD},
        )
        for trial in numbered
    ]


def read_front(run: Path) -> tuple[Trial, ...]:
    """The front in a run folder, fastest first.

    Raises:
        RunError, ConfigError: a file is damaged; with file, line, rule and value.
    """
    files = sorted((run / FRONT).glob("*.yaml"), key=lambda path: path.stem.zfill(9))
    return tuple(map(_read_trial, files))


def _read_trial(path: Path) -> Trial:
    if not path.stem.isdigit():
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
        front_number=int(path.stem),
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
