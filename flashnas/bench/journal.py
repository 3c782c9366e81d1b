"""The journal of a bench: a text file with one JSON object a line, so that Git shows what was added.

The first line says how all its networks are trained. Every other line is a finished training. A line is on the disk
before the next training is waited for; a process that is killed loses at most the trainings that it was running.
Several journals, from several machines or worktrees, make one bench.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, FlashnasError
from flashnas.base.files import append_synced, complete_lines, drop_torn_line
from flashnas.base.fingerprint import fingerprint
from flashnas.base.hints import shown
from flashnas.training.recipe import Recipe

FORMAT = 1
NAMES = "trainings*.jsonl"
# of a recipe: its name, what the trained network itself shows, and what only synthetic tasks read
NOT_OF_THE_TRAINING = ("name", "width_factor", "depth_factor", "least_head_dim", "tasks")
FIGURES = ("loss", "bits_per_byte", "tokens", "tokens_per_s", "seconds", "proxy_params")  # None where it failed


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe on which the loss of a given network depends."""
    return {name: value for name, value in recipe.to_dict().items() if name not in NOT_OF_THE_TRAINING}


@dataclass(frozen=True, kw_only=True)
class Header:
    """How all networks of a bench are trained.

    recipe: its width factor is the one for spaces without a factor of their own. source: of the text, as `--data` names
    it. dataset: digest of text and tokenizer. vocab: tokens of the tokenizer. made_by: versions, for readers only.
    """

    recipe: Recipe
    source: str
    dataset: str
    vocab: int
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> str:
        """16 hex digits; equal for two recipes by which a given network gets the same loss."""
        return fingerprint(training_settings(self.recipe))

    def difference(self, recipe: Recipe, dataset: str, vocab: int, *, own: str = "in the bench",
                   other: str = "here") -> str | None:
        """In what another training differs from those of this bench, in words; None if nothing does.

        Args:
            recipe, dataset, vocab: of the other training.
            own, other: where the two are, for the words.
        """
        here, there = training_settings(self.recipe), training_settings(recipe)
        for name in here:
            if here[name] != there[name]:
                return f"recipe.{name} is {shown(here[name])} {own} and {shown(there[name])} {other}"
        if vocab != self.vocab:
            return f"the vocabulary has {self.vocab} tokens {own} and {vocab} {other}"
        if dataset != self.dataset:
            return f"text and tokenizer have the digest {self.dataset} ({self.source}) {own} and {dataset} {other}"
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"flashnas_bench": FORMAT, "recipe": self.recipe.to_dict(), "source": self.source,
                "dataset": self.dataset, "vocab": self.vocab, "made_by": dict(self.made_by)}

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Self:
        """Raises BenchError, with the place, for what is not a header of this format."""
        if not isinstance(data, Mapping) or "flashnas_bench" not in data:
            raise BenchError(f"{place}: not the header of a bench (it has no key 'flashnas_bench')")
        if data["flashnas_bench"] != FORMAT:
            raise BenchError(f"{place}: a bench of format {shown(data['flashnas_bench'])}; this version of flashnas"
                             f" reads format {FORMAT}")
        for name, kind in (("recipe", Mapping), ("source", str), ("dataset", str), ("vocab", int)):
            if not isinstance(data.get(name), kind):
                raise BenchError(f"{place}: damaged header: {name} is {shown(data.get(name))}")
        try:
            recipe = Recipe.from_dict(data["recipe"])
        except FlashnasError as error:
            raise BenchError(f"{place}: {error}") from None
        made_by = data.get("made_by")
        return cls(recipe=recipe, source=data["source"], dataset=data["dataset"], vocab=data["vocab"],
                   made_by=dict(made_by) if isinstance(made_by, Mapping) else {})


@dataclass(frozen=True, kw_only=True)
class Training:
    """One finished training.

    origin: name of the space, or `published:<group>`. architecture: notation at full width. width_factor: by which it
    was shrunk; None where the trained network follows from another rule. proxy: notation of the network that was
    trained, every option explicit. curve: [tokens, validation loss in nats per token] pairs. more: fields of the score
    that have no field here. reason: why it failed; the figures are then None.
    """

    origin: str
    architecture: str
    width_factor: int | None
    proxy: str
    seed: int
    loss: float | None = None
    bits_per_byte: float | None = None
    curve: Sequence[Sequence[float]] = ()
    tokens: int | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    proxy_params: int | None = None
    backends: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @cached_property
    def network(self) -> Architecture:
        """At full width."""
        return Architecture.parse(self.architecture)

    @cached_property
    def key(self) -> tuple[str, int]:
        """What is trained once: hash of the trained network, and seed."""
        return Architecture.parse(self.proxy).hash, self.seed

    def line(self) -> str:
        """The line of the journal; keys in the order of the fields, so that lines compare."""
        return json.dumps(dataclasses.asdict(self), separators=(", ", ": "))

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Self:
        """Raises BenchError with the place, the key and the value."""
        if not isinstance(data, Mapping):
            raise BenchError(f"{place}: a training must be a mapping; got {shown(data)}")
        known = {item.name: item for item in dataclasses.fields(cls)}
        for name in data:
            if name not in known:
                raise BenchError(f"{place}: a training has no key {name!r}; allowed: {', '.join(known)}")
        failed = bool(data.get("reason"))
        for name, item in known.items():
            value = data.get(name)
            if str(item.type).startswith("Mapping") and not isinstance(data.get(name, {}), Mapping):
                raise BenchError(f"{place}: {name} must be a mapping; got {shown(value)}")
            if item.type == "str" and not isinstance(value, str):
                raise BenchError(f"{place}: {name} must be text; got {shown(value)}")
            if (item.type == "int" or (name == "width_factor" and value is not None)) and type(value) is not int:
                raise BenchError(f"{place}: {name} must be a whole number; got {shown(value)}")
            if name in FIGURES and not (failed and value is None) and not is_number(value):
                raise BenchError(f"{place}: {name} must be a number; got {shown(value)}")
        try:
            made = cls(**data)
            made.key, made.network  # noqa: B018  (parsed here, so that the place is known)
        except FlashnasError as error:
            raise BenchError(f"{place}: {error}") from None
        return made


def read_journal(path: Path) -> tuple[Header, list[Training]]:
    """The header and trainings of a journal. A last line without its end, which a killed process can leave, is ignored.

    Raises:
        BenchError: with file, line and rule.
    """
    entries = read_lines(path)
    return Header.from_dict(entries[0], f"{path}:1"), [
        Training.from_dict(entry, f"{path}:{number}") for number, entry in enumerate(entries[1:], start=2)]


def read_lines(path: Path) -> list[Any]:
    """The complete lines of a journal, at least one, each as its JSON value; raises BenchError with file and line."""
    try:
        text = complete_lines(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entries.append(json.loads(line))
        except (ValueError, RecursionError):
            raise BenchError(f"{path}:{number}: damaged, not a JSON value: {shown(line)}") from None
    if not entries:
        raise BenchError(f"{path}: an empty journal; remove it")
    return entries


class Journal:
    """A journal that one process appends to.

    Args:
        path: the file; it is started with the header, or continued.
        header: how its networks are trained.

    Raises:
        BenchError: the file is damaged, or is of other trainings.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        drop_torn_line(path)
        if not path.exists() or not path.stat().st_size:
            append_synced(path, json.dumps(header.to_dict()))
        found, self.trainings = read_journal(path)
        if reason := found.difference(header.recipe, header.dataset, header.vocab):
            raise BenchError(f"{path}: holds a bench of another recipe or text: {reason}; choose another --out")

    def add(self, training: Training) -> None:
        """Append one training and wait until it is on the disk."""
        append_synced(self.path, training.line())
        self.trainings.append(training)


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
    header: Header | None = None
    found: dict[tuple[str, int], Training] = {}
    for path in paths:
        own, trainings = read_journal(path)
        header = header or own
        if reason := header.difference(own.recipe, own.dataset, own.vocab, own=f"in {paths[0].name}"):
            raise BenchError(f"{path}: is of another recipe or text than {paths[0]}: {reason}")
        for training in trainings:
            found.setdefault(training.key, training)
    assert header is not None
    return header, list(found.values())


def is_number(value: Any) -> bool:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
