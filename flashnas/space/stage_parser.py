"""Operator list -> three-stage genotype, and the number of different lists.

Different genotypes can build one list (`2x(d f) 3x(d f)` and `3x(d f) 2x(d f)`). The parser finds
them all and picks one by a fixed rule, which makes genotypes canonical. Lists are text with one
letter per operator.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flashnas.operators import OperatorSpec
from flashnas.space.stage import STAGES, Stage, StageRules, ThreeStageGenotype

COUNTED = 200_000  # genotypes of a space up to which its different lists are built, and counted


@dataclass(frozen=True)
class _Block:
    rank: int  # order in the space's file; breaks ties
    type: Stage
    text: str

    def stage(self, repeats: int) -> Stage:
        return replace(self.type, repeats=repeats)


class StageParser:
    """Parses the operator lists of one space; holds its block types as text."""

    def __init__(self, rules: StageRules) -> None:
        self.cap = rules.max_operators
        self.repeats = rules.repeats
        self.letters = {
            spec: chr(ord("A") + i) for i, spec in enumerate((*rules.mixers, rules.ffn))
        }
        ffn = self.letters[rules.ffn]
        letter = {name: self.letters[spec] for name, spec in rules.specs.items()}
        self.blocks = [
            _Block(rank, block, "".join(letter[name] + ffn * block.ffns for name in block.mixers))
            for rank, block in enumerate(rules.blocks())
        ]
        self._by_letter = {
            letter: [block for block in self.blocks if block.text[0] == letter]
            for letter in self.letters.values()
        }
        self.parse_text = functools.lru_cache(maxsize=65536)(self._parse_text)

    # -- list -> genotype

    def parse(self, operators: Sequence[OperatorSpec]) -> ThreeStageGenotype | None:
        """The canonical genotype of the list, or None if the space does not hold it."""
        letters = [self.letters.get(spec, "") for spec in operators]
        return self.parse_text("".join(letters)) if all(letters) else None

    def _parse_text(self, text: str) -> ThreeStageGenotype | None:
        if not 1 <= len(text) <= self.cap:
            return None
        best: tuple[tuple[int, ...], tuple[tuple[_Block, int], ...]] | None = None
        for early, early_repeats in self._complete_blocks(text, 0):
            start = len(early.text) * early_repeats
            for middle, middle_repeats in self._complete_blocks(text, start):
                end = start + len(middle.text) * middle_repeats
                for late, late_repeats in self._last(text[end:], len(text) == self.cap):
                    sizes = (start, end - start, len(text) - end)
                    key = (max(sizes), -min(sizes), start, early.rank, middle.rank, late.rank)
                    if best is None or key < best[0]:
                        best = (
                            key,
                            (
                                (early, early_repeats),
                                (middle, middle_repeats),
                                (late, late_repeats),
                            ),
                        )
        if best is None:
            return None
        return ThreeStageGenotype(tuple(block.stage(repeats) for block, repeats in best[1]))

    def _complete_blocks(self, text: str, start: int) -> list[tuple[_Block, int]]:
        """Block types and repeats that the text has at `start`, with at least one letter after
        them.
        """
        low, high = self.repeats
        result = []
        for block in self._by_letter.get(text[start : start + 1], ()):
            repeats, position = 0, start
            while (
                repeats < high
                and text.startswith(block.text, position)
                and position + len(block.text) < len(text)
            ):
                repeats = repeats + 1
                position = position + len(block.text)
                if repeats >= low:
                    result.append((block, repeats))
        return result

    def _last(self, text: str, may_be_cut: bool) -> list[tuple[_Block, int]]:
        """Block types and the fewest repeats that give all of `text`, cut at its end if allowed."""
        low, high = self.repeats
        result = []
        for block in self._by_letter.get(text[:1], ()):
            repeats = -(-len(text) // len(block.text))
            complete = repeats * len(block.text) == len(text) and repeats >= low
            if (
                repeats <= high
                and (complete or may_be_cut)
                and (block.text * repeats)[: len(text)] == text
            ):
                result.append((block, max(repeats, low)))
        return result

    # -- all lists

    @functools.cached_property
    def texts(self) -> list[str]:
        """Every list of a small space, once, in alphabetical order."""
        low, high = self.repeats
        stages = {block.text * n for block in self.blocks for n in range(low, high + 1)}
        starts = {early + middle for early in stages for middle in stages}
        return sorted(
            {
                (start + late)[: self.cap]
                for start in starts
                if len(start) < self.cap
                for late in stages
            }
        )

    @functools.cached_property
    def count(self) -> int:
        """Number of different lists; where it is not small, of genotypes."""
        low, high = self.repeats
        genotypes = (len(self.blocks) * (high - low + 1)) ** len(STAGES)
        return len(self.texts) if genotypes <= COUNTED else genotypes

    def genotypes(self) -> Iterator[ThreeStageGenotype]:
        """The canonical genotype of every list, once."""
        for text in self.texts:
            parsed = self._parse_text(text)
            assert parsed is not None, text
            yield parsed
