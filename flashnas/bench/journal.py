"""The journals of a bench, and what grows them: stores of trainings by one recipe on one text.

Several journals, from several machines, make one bench. Workers train at low priority, one thread each.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import flashnas
from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, FlashnasError
from flashnas.base.fingerprint import fingerprint
from flashnas.base.hints import shown
from flashnas.base.schema import convert
from flashnas.bench.plan import Planned
from flashnas.proxy.worker import run_candidate
from flashnas.training.recipe import Recipe
from flashnas.training.store import (
    PlannedTraining,
    Pool,
    Progress,
    TrainingRow,
    TrainingStore,
    read_store,
    train_missing,
)

FORMAT = 1
NAMES = "trainings*.jsonl"
NICENESS = 10   # of the workers: everything else on the machine goes first


@dataclass(frozen=True, kw_only=True)
class _HeaderLine:

    flashnas_bench: int
    recipe: dict[str, Any]
    source: str
    dataset: str
    vocab: int
    made_by: dict[str, str] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Header:
    """How all networks of a bench are trained.

    recipe: its width factor is for spaces without one of their own. source: of the text, as `--data` names
    it. dataset: digest of text and tokenizer. made_by: versions, for readers only.
    """

    recipe: Recipe
    source: str
    dataset: str
    vocab: int
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def here(cls, recipe: Recipe, source: str, dataset: str, vocab: int) -> Self:
        """The header of a journal that this machine starts."""
        made_by = {"flashnas": flashnas.__version__, "torch": importlib.metadata.version("torch"),
                   "cpu": platform.processor() or platform.machine()}
        return cls(recipe=recipe, source=source, dataset=dataset, vocab=vocab, made_by=made_by)

    @cached_property
    def digest(self) -> str:
        """16 hex digits; equal for two recipes by which a given network gets the same loss."""
        return fingerprint(self.recipe.training_settings)

    def difference(self, recipe: Recipe, dataset: str, vocab: int, *, own: str = "in the bench",
                   other: str = "here") -> str | None:
        """In what another training differs from those of this bench, in words; None if nothing does. own,
        other: where the two are, for the words."""
        here, there = self.recipe.training_settings, recipe.training_settings
        for name in here:
            if here[name] != there[name]:
                return f"recipe.{name} is {shown(here[name])} {own} and {shown(there[name])} {other}"
        if vocab != self.vocab:
            return f"the vocabulary has {self.vocab} tokens {own} and {vocab} {other}"
        if dataset != self.dataset:
            return (f"text and tokenizer have the digest {self.dataset} ({self.source}) {own} and {dataset}"
                    f" {other}")
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"flashnas_bench": FORMAT, **asdict(self), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Self:
        """Raises BenchError, with the place, for what is not a header of this format."""
        if not isinstance(data, Mapping) or "flashnas_bench" not in data:
            raise BenchError(f"{place}: not the header of a bench (it has no key 'flashnas_bench')")
        if data["flashnas_bench"] != FORMAT:
            raise BenchError(f"{place}: a bench of format {shown(data['flashnas_bench'])}; this version of"
                             f" flashnas reads format {FORMAT}")
        line = convert(data, _HeaderLine, place, BenchError, name="header")
        try:
            recipe = Recipe.from_dict(line.recipe)
        except FlashnasError as error:
            raise BenchError(f"{place}: {error}") from None
        return cls(recipe=recipe, source=line.source, dataset=line.dataset, vocab=line.vocab,
                   made_by=line.made_by)


@dataclass(frozen=True, kw_only=True)
class Training(TrainingRow):
    """One finished training.

    origin: name of the space, or `published:<group>`. architecture: notation at full width. width_factor:
    None where the trained network follows from another rule. proxy: notation of what was trained, every
    option explicit.
    """

    origin: str
    architecture: str
    width_factor: int | None = None
    proxy: str
    seed: int

    @cached_property
    def network(self) -> Architecture:
        """At full width."""
        return Architecture.parse(self.architecture)

    @cached_property
    def key(self) -> tuple[str, int]:
        """Hash of the trained network, and seed. Both notations are parsed."""
        assert self.network
        return Architecture.parse(self.proxy).hash, self.seed

    @classmethod
    def planned(cls, item: Planned) -> Self:
        """The training of a list, without its outcome."""
        return cls(origin=item.network.origin, architecture=item.network.architecture.notation,
                   width_factor=None if item.network.proxy else item.recipe.width_factor,
                   proxy=item.proxy.canonical().notation, seed=item.seed)


def journals_in(place: Path) -> list[Path]:
    """The journals of a folder in the order of their names, or the one file itself."""
    return sorted(place.glob(NAMES)) if place.is_dir() else [place]


def merged(paths: Sequence[Path]) -> tuple[Header, list[Training]]:
    """The trainings of several journals; one that an earlier journal has already is left out.

    Raises:
        BenchError: a journal is damaged, or was trained by another recipe or on other text than the first.
    """
    if not paths:
        raise BenchError(f"no journal of a bench ({NAMES}) was found; grow one with flashnas bench grow")
    headers, trainings = [], {}
    for path in paths:
        data, rows = read_store(path, Training, BenchError)
        headers.append(own := Header.from_dict(data, f"{path}:1"))
        if reason := headers[0].difference(own.recipe, own.dataset, own.vocab, own=f"in {paths[0].name}"):
            raise BenchError(f"{path}: is of another recipe or text than {paths[0]}: {reason}")
        trainings.update({row.key: row for row in rows if row.key not in trainings})
    return headers[0], list(trainings.values())


def grow(planned: Sequence[Planned], path: Path, header: Header, dataset: Path, pool: Pool,
         progress: Progress, workers: int) -> dict[str, int]:
    """Train what no journal of a folder has, by `train_gently` in the pool; returns the counts of
    `train_missing`.

    Raises:
        BenchError: another process grows this journal, a journal is damaged or of another recipe, or a
            training ended with an error that is not a property of its network.
    """
    with TrainingStore(path, header.to_dict(), Training, BenchError) as store:
        recorded = Header.from_dict(store.header, f"{path}:1")
        if reason := recorded.difference(header.recipe, header.dataset, header.vocab):
            raise BenchError(f"{path}: holds a bench of another recipe or text: {reason}; choose another"
                             f" --out")
        _, before = merged(journals_in(path.parent))
        return train_missing([_job(item, dataset) for item in planned], store, pool, progress,
                             workers=workers, known={training.key for training in before})


def _job(item: Planned, dataset: Path) -> PlannedTraining[Training]:
    """The trained network itself, which is not shrunk further. Its time grows with its operators."""
    job = {"architecture": item.proxy.to_dict(), "dataset": str(dataset), "seed": item.seed,
           "recipe": replace(item.recipe, width_factor=1, depth_factor=1).to_dict()}
    network = item.network.architecture
    return PlannedTraining(Training.planned(item), network.notation, job, len(network.operators))


@functools.cache
def _lower_priority() -> None:
    if hasattr(os, "nice"):  # not on Windows
        os.nice(max(0, NICENESS - os.nice(0)))


def train_gently(job: dict[str, Any]) -> dict[str, Any]:
    """`run_candidate` in a worker process whose priority is lowered once."""
    _lower_priority()
    return run_candidate(job)
