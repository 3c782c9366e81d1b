"""The scores that a bench holds for one search: same settings of the training, same text,
vocabulary and seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.documents import fingerprint
from flashnas.base.errors import ArchitectureError, BenchError, OperatorError
from flashnas.bench.table import Bench, shipped_benches
from flashnas.search.trial import BENCH
from flashnas.training.recipe import Recipe

FIGURES = ("loss", "bits_per_byte", "tokens_per_s", "seconds")
COUNTS = ("tokens", "proxy_params", "seed")


@dataclass(frozen=True)
class Known:
    """A network that the bench has a score for. origin: as in the bench."""

    origin: str
    architecture: Architecture


@dataclass(frozen=True)
class Answers:
    """What a bench answers in one search.

    recipe: of the search, whose width factor gives the trained network of an architecture. vocab:
    tokens of the tokenizer. digest: of all scores; equal answers give equal searches. known: the
    networks, in the bench's order.
    """

    bench: str
    recipe: Recipe
    vocab: int
    digest: str
    known: tuple[Known, ...] = field(repr=False)
    _scores: dict[str, dict[str, Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(self._scores)

    def score(self, network: Any) -> dict[str, Any] | None:
        """The score of a network as `ProxyScore.to_dict` with `source`, or None where the bench has
        none.
        """
        if not isinstance(network, Architecture):
            return None
        try:
            entry = self._scores.get(self.recipe.proxy_of(network, self.vocab).hash)
        except (ArchitectureError, OperatorError):  # it cannot be shrunk by this recipe
            return None
        return None if entry is None else dict(entry)

    def to_dict(self) -> dict[str, Any]:
        """For run.yaml."""
        return {"name": self.bench, "digest": self.digest, "networks": len(self)}


def answers(bench: Bench, recipe: Recipe, *, dataset: str, vocab: int, seed: int) -> Answers | str:
    """What a bench answers to a search, or in one line why nothing; BenchError: a row is not a
    network.
    """
    if reason := bench.header.difference(recipe, dataset, vocab):
        return reason
    frame = bench.frame[(bench.frame["seed"] == seed) & bench.frame["loss"].notna()]
    if frame.empty:
        return f"it has no training under seed {seed}"
    scores: dict[str, dict[str, Any]] = {}
    known = []
    for row in frame.to_dict("records"):
        if row["proxy_hash"] not in scores:
            scores[row["proxy_hash"]] = {
                **row["more"],
                **{name: float(row[name]) for name in FIGURES},
                **{name: int(row[name]) for name in COUNTS},
                "curve": row["curve"],
                "backends": row["backends"],
                "source": BENCH,
            }
            try:
                known.append(Known(row["origin"], Architecture.parse(row["architecture"])))
            except (ArchitectureError, OperatorError) as error:
                raise BenchError(f"bench {bench.path}: damaged: {error}") from None
    digest = fingerprint(
        [[key, score["loss"], score["bits_per_byte"]] for key, score in scores.items()]
    )
    return Answers(bench.name, recipe, vocab, digest, tuple(known), scores)


def find_answers(
    source: str | Path | None,
    recipe: Recipe,
    *,
    dataset: str,
    vocab: int,
    seed: int,
) -> Answers | str | None:
    """`answers` of a bench by name or folder; None: of the first shipped one that answers, or None
    if none is shipped."""
    reasons = []
    for name in shipped_benches() if source is None else [source]:
        bench = Bench.read(name)
        answered = answers(bench, recipe, dataset=dataset, vocab=vocab, seed=seed)
        if isinstance(answered, Answers):
            return answered
        reasons.append(f"{bench.name}: {answered}" if source is None else answered)
    return "; ".join(reasons) or None
