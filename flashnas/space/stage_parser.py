"""Operator list -> three-stage genotype, and the number of different lists.

Different genotypes can build one list (`2x(d f) 3x(d f)` and `3x(d f) 2x(d f)`). The parser finds them all
and picks one by a fixed rule, which makes genotypes canonical. Lists are text with one letter per operator.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flashnas.operators import OperatorSpec
from flashnas.space.list_automaton import ListAutomaton, list_automaton
from flashnas.space.stage import Stage, StageRules, ThreeStageGenotype


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
        self.letters = {spec: chr(ord("A") + i) for i, spec in enumerate((*rules.mixers, rules.ffn))}
        ffn = self.letters[rules.ffn]
        letter = {name: self.letters[spec] for name, spec in rules.specs.items()}
        self.blocks = [_Block(rank, block, "".join(letter[name] + ffn * block.ffns for name in block.mixers))
                       for rank, block in enumerate(rules.blocks())]
        self._by_letter = {letter: [block for block in self.blocks if block.text[0] == letter]
                           for letter in self.letters.values()}
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
        for early, early_repeats in self._whole(text, 0, 0):
            start = len(early.text) * early_repeats
            for middle, middle_repeats in self._whole(text, start, 1):
                end = start + len(middle.text) * middle_repeats
                for late, late_repeats in self._last(text[end:], len(text) == self.cap):
                    sizes = (start, end - start, len(text) - end)
                    key = (max(sizes), -min(sizes), start, early.rank, middle.rank, late.rank)
                    if best is None or key < best[0]:
                        best = key, ((early, early_repeats), (middle, middle_repeats), (late, late_repeats))
        if best is None:
            return None
        first, second, third = (block.stage(repeats) for block, repeats in best[1])
        return ThreeStageGenotype((first, second, third))

    def _whole(self, text: str, start: int, stage: int) -> list[tuple[_Block, int]]:
        """Block types and repeats that the text has at `start`, with at least one letter after them."""
        low, high = self.repeats[stage]
        result = []
        for block in self._by_letter.get(text[start:start + 1], ()):
            repeats, position = 0, start
            while (repeats < high and text.startswith(block.text, position)
                   and position + len(block.text) < len(text)):
                repeats, position = repeats + 1, position + len(block.text)
                if repeats >= low:
                    result.append((block, repeats))
        return result

    def _last(self, text: str, may_be_cut: bool) -> list[tuple[_Block, int]]:
        """Block types and the fewest repeats that give all of `text`, cut at its end if allowed."""
        low, high = self.repeats[2]
        result = []
        for block in self._by_letter.get(text[:1], ()):
            repeats = -(-len(text) // len(block.text))
            whole = repeats * len(block.text) == len(text) and repeats >= low
            if repeats <= high and (whole or may_be_cut) and (block.text * repeats)[:len(text)] == text:
                result.append((block, max(repeats, low)))
        return result

    # -- all lists

    @property
    def automaton(self) -> ListAutomaton:
        """Reads lists from left to right; built at first use."""
        return list_automaton(tuple(block.text for block in self.blocks), tuple(self.repeats), self.cap)

    def genotypes(self) -> Iterator[ThreeStageGenotype]:
        """The canonical genotype of every list, once."""
        for text in self.automaton.texts():
            parsed = self._parse_text(text)
            assert parsed is not None, text
            yield parsed
