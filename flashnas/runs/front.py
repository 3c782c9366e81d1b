"""FrontEntry: one architecture of the Pareto front, as pareto/NN.yaml holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.yaml import LocatedDict, read_yaml
from flashnas.runs.layout import FRONT


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of a foreign space, as a run records it: data without its class, which reading does not import."""

    made_by: str  # "module:class"
    notation: str
    hash: str
    data: Mapping[str, Any] = field(hash=False)
    operators: tuple[Any, ...] = ()  # it has none that flashnas knows

    def to_dict(self) -> dict[str, Any]:
        return dict(self.data)


@dataclass(frozen=True, kw_only=True)
class FrontEntry:
    """One architecture of the front.

    Attributes:
        architecture: at full width.
        figures: name -> value, units in the names; None where one does not exist.
        breakdown: one mapping for each kernel of each operator (operator, index, phase, kernel, label, source, ms,
            share); empty without a latency table.
        sources: source of the latency -> share of it.
        origin: `number` of the trial, and `label` of a baseline or `search`.
        missed: figures that exceed their budget as measured on the device; None where nothing was measured.
        number: 1 for the fastest; 0 before the front is written.
        path: the file; empty before the front is written.
    """

    architecture: Architecture | ForeignNetwork
    figures: dict[str, float | None]
    breakdown: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, float] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    missed: tuple[str, ...] | None = None
    notation: str = ""
    hash: str = ""
    number: int = 0
    path: Path = Path()

    @property
    def name(self) -> str:
        """`P3`: its name in every figure and table of the report."""
        return f"P{self.number}"

    @property
    def loss(self) -> float | None:
        """In nats per token, or what the user's evaluator returned; lower is better."""
        return self.figures.get("loss")

    @property
    def latency_ms(self) -> float | None:
        """Of the whole request; None where no table, function or evaluator gave it."""
        return self.figures.get("latency_ms")

    def to_dict(self) -> dict[str, Any]:
        """The content of its file, YAML- and JSON-ready."""
        made_by = {"made_by": self.architecture.made_by} if isinstance(self.architecture, ForeignNetwork) else {}
        missed = {} if self.missed is None else {"missed": list(self.missed)}
        return {"notation": self.notation, "hash": self.hash, **made_by, "architecture": self.architecture.to_dict(),
                "figures": self.figures, "breakdown": self.breakdown, "sources": self.sources, "origin": self.origin,
                **missed}

    @classmethod
    def from_dict(cls, data: LocatedDict, path: Path) -> FrontEntry:
        """The entry of a file.

        Args:
            data: its content.
            path: its place, whose name is the number.

        Raises:
            RunError: with file, line, rule and value.
        """
        if not path.stem.isdigit():
            raise RunError(f"{path}: files of the front have numbers as names, such as 01.yaml")
        mappings = {key: _mapping(data, key) for key in ("architecture", "figures", "sources", "origin")}
        if data.get("architecture") is None:
            raise RunError(f"{data.place()}: an entry of the front needs the key 'architecture' (a mapping)")
        rows, missed = _list(data, "breakdown"), _list(data, "missed")
        if not all(isinstance(row, dict) for row in rows):
            raise RunError(f"{data.place('breakdown')}: breakdown must be a list of mappings")
        notation, identity = str(data.get("notation") or ""), str(data.get("hash") or "")
        architecture: Architecture | ForeignNetwork
        if "made_by" in data:
            architecture = ForeignNetwork(str(data["made_by"]), notation, identity, mappings["architecture"])
        else:
            try:
                architecture = Architecture.from_dict(mappings["architecture"])
            except (FlashnasError, TypeError) as error:
                raise RunError(f"{data.place('architecture')}: {error}") from None
        return cls(
            number=int(path.stem), path=path, notation=notation or architecture.notation,
            hash=identity or architecture.hash, architecture=architecture, breakdown=[dict(row) for row in rows],
            figures={name: float(value) if isinstance(value, int | float) else None
                     for name, value in mappings["figures"].items()},
            sources={str(name): float(share) for name, share in mappings["sources"].items()
                     if isinstance(share, int | float)},
            origin=dict(mappings["origin"]), missed=tuple(map(str, missed)) if "missed" in data else None)


def recorded(network: Any) -> Architecture | ForeignNetwork:
    """A network as an entry of the front holds it."""
    if isinstance(network, Architecture):
        return network
    made_by = f"{type(network).__module__}:{type(network).__qualname__}"
    return ForeignNetwork(made_by, network.notation, network.hash, network.to_dict())


def read_front(folder: Path) -> tuple[FrontEntry, ...]:
    """The front in a run folder, fastest first; raises RunError or ConfigError for a damaged file."""
    return tuple(FrontEntry.from_dict(read_yaml(path), path) for path in front_files(folder))


def front_files(folder: Path) -> list[Path]:
    """The files of the front of a run folder, in the order of their numbers."""
    return sorted((folder / FRONT).glob("*.yaml"),
                  key=lambda path: (int(path.stem) if path.stem.isdigit() else 10**9, path.stem))


def _mapping(data: LocatedDict, key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is not None and not isinstance(value, dict):
        raise RunError(f"{data.place(key)}: {key} must be a mapping; got {value!r:.60}")
    return value or {}


def _list(data: LocatedDict, key: str) -> list[Any]:
    value = data.get(key)
    if value is not None and not isinstance(value, list):
        raise RunError(f"{data.place(key)}: {key} must be a list; got {value!r:.60}")
    return value or []
