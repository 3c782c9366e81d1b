"""Operator list -> three-stage genotype, and the number of different lists.

Different genotypes can build one list (`2x(d f) 3x(d f)` and `3x(d f) 2x(d f)`). The parser finds
them all and picks one by a fixed rule, which makes genotypes canonical. Lists are text with one
letter per operator.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from flashnas.operators import OperatorSpec
from flashnas.space.stage import STAGES, Stage, StageRules, ThreeStageGenotype


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
    def automaton(self) -> ListAutomaton:
        """Reads lists from left to right."""
        return ListAutomaton([block.text for block in self.blocks], self.repeats, self.cap)

    def genotypes(self) -> Iterator[ThreeStageGenotype]:
        """The canonical genotype of every list, once."""
        for text in self.automaton.texts():
            parsed = self._parse_text(text)
            assert parsed is not None, text
            yield parsed


class _State(NamedTuple):
    """Where a list may stand after its last operator."""

    stage: int
    block: int
    offset: int  # letters read of the current block, at least 1
    before: int  # blocks of the stage that came before, as far as the limits need it


States = frozenset[_State]


class ListAutomaton:
    """Counts and lists the different operator lists of a space without building every genotype.

    The template is a nondeterministic automaton. Many genotypes can lead to one list, but each list
    reaches exactly one set of states. Counting paths over these sets counts each list once.

    Args:
        blocks: one text per block type.
        repeats: (low, high) of each stage.
        cap: most letters of a list.
    """

    def __init__(self, blocks: Sequence[str], repeats: tuple[int, int], cap: int) -> None:
        self.blocks = blocks
        self.repeats = repeats
        self.cap = cap
        # as at the end of a stage in front of the first one
        self._start: States = frozenset({_State(-1, 0, len(blocks[0]), repeats[1] - 1)})
        self._after = functools.cache(self._by_letter)
        self._step = functools.cache(lambda state: tuple(self._following(state)))

    @functools.cached_property
    def count(self) -> int:
        """Number of different lists."""
        total = 0
        paths = Counter({self._start: 1})  # lists of the current length by the states they reach
        for length in range(self.cap + 1):
            longer: Counter[States] = Counter()
            for states, number in paths.items():
                total += number * self._may_end(states, length)
                for after in self._after(states).values():
                    longer[after] += number
            paths = longer
        return total

    def texts(self) -> Iterator[str]:
        """Every list once, in depth-first order."""
        stack = [("", self._start)]
        while stack:
            text, states = stack.pop()
            if self._may_end(states, len(text)):
                yield text
            if len(text) < self.cap:
                after = sorted(self._after(states).items(), reverse=True)
                stack += [(text + letter, reached) for letter, reached in after]

    def _may_end(self, states: States, length: int) -> bool:
        """Whether a list may end: the late stage is complete, or the cap cuts it."""
        late, fewest = len(STAGES) - 1, self.repeats[0]
        return any(
            state.stage == late
            and (
                length == self.cap
                or (state.before + 1 >= fewest and state.offset == len(self.blocks[state.block]))
            )
            for state in states
        )

    def _by_letter(self, states: States) -> dict[str, States]:
        """The states that each next letter leads to."""
        found = defaultdict[str, set[_State]](set)
        for state in states:
            for after in self._step(state):
                found[self.blocks[after.block][after.offset - 1]].add(after)
        return {letter: frozenset(reached) for letter, reached in found.items()}

    def _following(self, state: _State) -> Iterator[_State]:
        length, (low, high) = len(self.blocks[state.block]), self.repeats
        if state.offset < length:
            yield state._replace(offset=state.offset + 1)
            return
        read = state.before + 1
        if read < high:
            # what no limit asks for is not counted, so that states stay few
            before = read if high * length < self.cap else min(read, low - 1)
            yield state._replace(offset=1, before=before)
        if state.stage < len(STAGES) - 1 and read >= low:
            for block in range(len(self.blocks)):
                yield _State(state.stage + 1, block, 1, 0)
