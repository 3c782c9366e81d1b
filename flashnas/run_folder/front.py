"""The front of a run folder: a file for each network, written and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.documents import convert, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.registry import code_name
from flashnas.base.system import atomic_folder, write_synced
from flashnas.run_folder.layout import FRONT, RECOMMENDED, front_path, yaml_text
from flashnas.trials.trial import EXPECTED_FIGURES, FRONT_FIGURES, METRICS_ON_FRONT, Trial

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
