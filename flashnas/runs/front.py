"""FrontEntry: one architecture of the Pareto front, as pareto/NN.yaml holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.folding import compressed
from flashnas.base.documents import convert, read_yaml
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.system import atomic_folder, write_synced
from flashnas.runs.layout import FRONT, yaml_text

# of an entry, besides scores and what a search adds; expected: where full trainings rank
EXPECTED_FIGURES = (
    "full_loss",
    "full_loss_sd",
    "silence",
    "expected_recall",
    "expected_recall_sd",
)
FRONT_FIGURES = (
    "loss",
    "bits_per_byte",
    "latency_ms",
    "lower_ms",
    "upper_ms",
    "ttft_ms",
    "tpot_ms",
    "throughput_tok_s",
    "memory_gb",
    "params",
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
class _Recorded:
    figures: dict[str, float | None] = field(default_factory=dict)
    operators_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: dict[str, float] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    missed: tuple[str, ...] | None = None
    runs_in: dict[str, str] | None = None
    notation: str = ""
    hash: str = ""


@dataclass(frozen=True, kw_only=True)
class FrontEntry(_Recorded):
    """One architecture of the front.

    figures: name -> value, units in the names; None where one does not exist. operators_ms: kind of
    operator -> source -> milliseconds of the request; empty without a latency table. sources:
    source of the latency -> share of it. origin: `number` of the trial, and `label`
    of a baseline or `search`. missed: figures that exceed their budget as measured on the device.
    runs_in: the programs that run it without flashnas, each with the `--to` of its export. Both are
    None where that is not known. number: 1 for the fastest; 0 before the front is written.
    """

    architecture: Architecture | ForeignNetwork
    number: int = 0
    path: Path = Path()

    @property
    def name(self) -> str:
        """`P3`: its name in every figure and table of the report."""
        return f"P{self.number}"

    def __str__(self) -> str:
        """`P3 2560: 5x(m2 f) a f`."""
        return f"{self.name} {compressed(self.notation)}"

    @property
    def loss(self) -> float | None:
        """In nats per token, or what the user's evaluator returned."""
        return self.figures.get("loss")

    @property
    def latency_ms(self) -> float | None:
        """Of the whole request, where it is known."""
        return self.figures.get("latency_ms")

    @property
    def on_programs(self) -> dict[str, Any]:
        """`missed` and `runs_in`, where they are known."""
        return {
            **({} if self.missed is None else {"missed": list(self.missed)}),
            **({} if self.runs_in is None else {"runs_in": self.runs_in}),
        }

    def to_dict(self) -> dict[str, Any]:
        """What its file holds."""
        network = self.architecture
        made_by = {"made_by": network.made_by} if isinstance(network, ForeignNetwork) else {}
        return {
            "notation": self.notation,
            "hash": self.hash,
            **made_by,
            "architecture": network.to_dict(),
            "figures": self.figures,
            "sources": self.sources,
            "origin": self.origin,
            **self.on_programs,
            "operators_ms": self.operators_ms,
        }

    @classmethod
    def read(cls, path: Path) -> FrontEntry:
        """The entry of a file, whose name is the number; raises RunError or ConfigError with file,
        line, rule and value."""
        if not path.stem.isdigit():
            raise RunError(f"{path}: files of the front have numbers as names, such as 01.yaml")
        data = read_yaml(path)
        file = convert(data, _File, error=RunError, finite=False)
        architecture: Architecture | ForeignNetwork
        if file.made_by is not None:
            architecture = ForeignNetwork(file.made_by, file.notation, file.hash, file.architecture)
        else:
            try:
                architecture = Architecture.from_dict(file.architecture)
            except (FlashnasError, TypeError) as error:
                raise RunError(f"{data.place('architecture')}: {error}") from None
        values = {
            **vars(file),
            "architecture": architecture,
            "notation": file.notation or architecture.notation,
            "hash": file.hash or architecture.hash,
        }
        values.pop("made_by", None)
        return cls(**values, number=int(path.stem), path=path)


@dataclass(frozen=True, kw_only=True)
class _File(_Recorded):
    """What a file of the front holds."""

    architecture: dict[str, Any]
    made_by: str | None = None


def recorded(network: Any) -> Architecture | ForeignNetwork:
    """A network as an entry of the front holds it."""
    if isinstance(network, Architecture):
        return network
    made_by = f"{type(network).__module__}:{type(network).__qualname__}"
    return ForeignNetwork(made_by, network.notation, network.hash, network.to_dict())


def programs_of(network: Any) -> dict[str, str] | None:
    """`runs_in` of a network; None of a network of a foreign space."""
    if not isinstance(network, Architecture):
        return None
    from flashnas.formats.programs import exports_of  # loads torch

    return exports_of(network)


def read_front(folder: Path) -> tuple[FrontEntry, ...]:
    """The front in a run folder, fastest first; raises RunError or ConfigError for a damaged
    file.
    """
    files = sorted((folder / FRONT).glob("*.yaml"), key=lambda path: path.stem.zfill(9))
    return tuple(map(FrontEntry.read, files))


def write_front(folder: Path, entries: Sequence[FrontEntry]) -> list[FrontEntry]:
    """Replace a folder by these entries; returns them with number and path."""
    numbered = [
        dataclasses.replace(entry, number=number, path=folder / f"{number:02d}.yaml")
        for number, entry in enumerate(entries, start=1)
    ]
    with atomic_folder(folder) as fresh:
        for entry in numbered:
            write_synced(fresh / entry.path.name, yaml_text(entry.to_dict()))
    return numbered
