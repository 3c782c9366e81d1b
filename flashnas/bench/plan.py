"""What a bench trains, in order: given networks first, then networks of search spaces, chosen so that every
prefix of the list is balanced.

The list depends on its arguments only, and a longer list starts with the shorter one: a bench can be stopped,
continued with more trainings, and trained in parts on several machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, BenchError, FlashnasError, OperatorError
from flashnas.base.foreign import read_csv
from flashnas.space import OperatorSpace
from flashnas.training.recipe import Recipe

POOL = 24        # networks that are drawn for each one that is taken
BARREN = 4       # turns in a row without a new network from any space: the spaces are exhausted
DEPTH_STEP = 4   # operators; depths within one step count as the same
SHARE_STEPS = 4  # so do shares of feed-forward operators within a quarter


@dataclass(frozen=True)
class Given:
    """A network that a bench trains whatever the spaces hold.

    origin: where it is from, such as `published:samba_438m_20b`. architecture: at full width. width_factor:
    None: that of the recipe. proxy: the network to train in its place, where shrinking does not give it.
    """

    origin: str
    architecture: Architecture
    width_factor: int | None = None
    proxy: Architecture | None = None


@dataclass(frozen=True)
class Planned:
    """One training of the list. recipe: with the network's own width factor. vocab: tokens of the tokenizer.
    """

    network: Given
    recipe: Recipe
    vocab: int
    seed: int

    @cached_property
    def proxy(self) -> Architecture:
        """The network that is trained."""
        if self.network.proxy is not None:
            return replace(self.network.proxy, vocab=self.vocab)
        return self.recipe.proxy_of(self.network.architecture, self.vocab)

    @cached_property
    def key(self) -> tuple[str, int]:
        """What is trained once: hash of the trained network, and seed."""
        return self.proxy.hash, self.seed


def plan(given: Iterable[Given], spaces: Sequence[OperatorSpace[Any]], recipe: Recipe, *, vocab: int,
         trainings: int, seeds: int = 3, repeat_every: int = 6) -> list[Planned]:
    """The first `trainings` trainings of the list.

    Args:
        given: come first, in their order; further ones that train the same network are left out.
        spaces: take turns, each shrunk by its own width factor; one that is named twice gets twice the share.
        trainings: repeats under further seeds included.
        seeds: under which every `repeat_every`-th network is trained; the others under seed 0.

    Raises:
        BenchError: a given network cannot be shrunk by its factor.
    """
    result: list[Planned] = []
    for number, network in enumerate(_networks(given, spaces, recipe, vocab)):
        for seed in range(seeds if number % repeat_every == 0 else 1):
            if len(result) == trainings:
                return result
            result.append(Planned(network.network, network.recipe, vocab, seed))
    return result


def part_of(planned: Sequence[Planned], part: int, parts: int) -> list[Planned]:
    """Every `parts`-th training, from the `part`-th (from 1) on: parts are disjoint and as balanced as the
    whole."""
    return list(planned[part - 1::parts])


def _networks(given: Iterable[Given], spaces: Sequence[OperatorSpace[Any]], recipe: Recipe, vocab: int,
              ) -> Iterator[Planned]:
    """Each network once, without end unless the spaces are exhausted."""
    taken: set[str] = set()
    seen: Counter[Any] = Counter()
    for network in given:
        item = Planned(network, _with_factor(recipe, network.width_factor), vocab, 0)
        try:
            fresh = item.proxy.hash not in taken
        except (ArchitectureError, OperatorError) as error:
            raise BenchError(f"network {network.architecture.notation!r} ({network.origin}) cannot be shrunk"
                             f" by the width factor {item.recipe.width_factor}: {error}") from None
        if fresh:
            taken.add(item.proxy.hash)
            seen.update(features(network))
            yield item
    turn = barren = 0
    while spaces and barren < BARREN * len(spaces):
        space = spaces[turn % len(spaces)]
        pool = _draw(space, _with_factor(recipe, space.width_factor), vocab, np.random.default_rng(turn),
                     taken)
        turn += 1
        barren = 0 if pool else barren + 1
        if pool:
            best = max(pool, key=lambda item: _rarity(item.network, seen))  # the first of equals
            taken.add(best.proxy.hash)
            seen.update(features(best.network))
            yield best


def _draw(space: OperatorSpace[Any], recipe: Recipe, vocab: int, rng: np.random.Generator, taken: set[str],
          ) -> list[Planned]:
    """Random networks of a space at random widths that are not taken yet and can be shrunk by the recipe."""
    pool = []
    for _ in range(POOL):
        genotype, hidden = space.sample(rng), int(rng.choice(space.hidden_sizes))
        item = Planned(Given(space.name, space.architecture(genotype, hidden)), recipe, vocab, 0)
        try:
            if item.proxy.hash not in taken:
                pool.append(item)
        except (ArchitectureError, OperatorError):
            continue
    return pool


def features(network: Given) -> set[tuple[Any, ...]]:
    """What is counted to keep the list balanced."""
    operators = network.architecture.operators
    mixers = [spec.kind for spec in operators if spec.mixes_tokens]
    share = (len(operators) - len(mixers)) / len(operators)
    ends = {("first", mixers[0]), ("last", mixers[-1])} if mixers else set()
    return {*ends, *(("mixer", kind) for kind in mixers), ("mixers", len(set(mixers))),
            *(("order", *pair) for pair in pairwise(mixers)), ("feed-forward", round(share * SHARE_STEPS)),
            ("depth", len(operators) // DEPTH_STEP), ("width", network.origin, network.architecture.hidden)}


def _rarity(network: Given, seen: Counter[Any]) -> float:
    shares = features(network)
    return sum(1 / (1 + seen[feature]) for feature in sorted(shares, key=str)) / len(shares)


def _with_factor(recipe: Recipe, factor: int | None) -> Recipe:
    return recipe if factor is None else replace(recipe, width_factor=factor)


def balance(planned: Sequence[Planned]) -> dict[str, dict[str, int]]:
    """What the list holds: networks by origin, mixer, depth and width of the trained network, and trainings
    by seed."""
    networks = list({item.proxy.hash: item for item in planned}.values())
    counted: dict[str, Counter[Any]] = {
        "origin": Counter(item.network.origin for item in networks),
        "mixer": Counter(kind for item in networks for kind in sorted({
            spec.kind for spec in item.proxy.operators if spec.mixes_tokens})),
        "depth": Counter(len(item.proxy.operators) for item in networks),
        "width": Counter(item.proxy.hidden for item in networks),
        "seed": Counter(item.seed for item in planned)}
    return {name: {str(key): count for key, count in sorted(counts.items())} for name, counts
            in counted.items()}


COLUMNS = ("origin", "architecture")


def read_networks(path: Path) -> list[Given]:
    """Given networks from a CSV file with the columns `origin`, `architecture` (notation) and, if any,
    `width_factor` and `proxy` (see Given); BenchError with file, line and rule."""
    read = []
    for place, row in read_csv(path, BenchError, COLUMNS):
        factor = (row.get("width_factor") or "").strip()
        if factor and (not factor.isdigit() or int(factor) < 1):
            raise BenchError(f"{place}: width_factor must be a whole number of at least 1 or empty; got"
                             f" {factor!r}")
        if not row["origin"]:
            raise BenchError(f"{place}: origin must say where the network is from; it is empty")
        try:
            architecture, proxy = (Architecture.parse(text) if text or name == "architecture" else None
                                   for name in ("architecture", "proxy") for text
                                   in [(row.get(name) or "").strip()])
        except FlashnasError as error:
            raise BenchError(f"{place}: {error}") from None
        assert architecture is not None
        read.append(Given(row["origin"], architecture, int(factor) if factor else None, proxy))
    if not read:
        raise BenchError(f"{path}: holds no network")
    return read
