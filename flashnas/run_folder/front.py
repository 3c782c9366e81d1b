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
    Trial,
)
from flashnas.architecture import Architecture
from flashnas.base.system import atomic_folder, write_synced
from flashnas.run_folder.layout import FRONT, yaml_text

FIGURES = (*METRICS_ON_FRONT, *EXPECTED_FIGURES, *FRONT_FIGURES)
# fields of a trial that its file holds, besides the network
_HELD = (
    *("number", "label", "origin", "state", "notation", "hash", "hidden", "front_number"),
    *("scores", "operators_ms", "sources", "missed", "runs_in", *FIGURES),
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
