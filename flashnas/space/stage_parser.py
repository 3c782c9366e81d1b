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
        for early, early_repeats in self._whole(text, 0, 0):
            start = len(early.text) * early_repeats
            for middle, middle_repeats in self._whole(text, start, 1):
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
        first, second, third = (block.stage(repeats) for block, repeats in best[1])
        return ThreeStageGenotype((first, second, third))

    def _whole(self, text: str, start: int, stage: int) -> list[tuple[_Block, int]]:
        """Block types and repeats that the text has at `start`, with at least one letter after
        them.
        """
        low, high = self.repeats[stage]
        result = []
        for block in self._by_letter.get(text[start : start + 1], ()):
            repeats, position = 0, start
            while (
                repeats < high
                and text.startswith(block.text, position)
                and position + len(block.text) < len(text)
            ):
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
            if (
                repeats <= high
                and (whole or may_be_cut)
                and (block.text * repeats)[: len(text)] == text
            ):
                result.append((block, max(repeats, low)))
        return result

    # -- all lists

    @property
    def automaton(self) -> ListAutomaton:
        """Reads lists from left to right; built at first use."""
        return list_automaton(
            tuple(block.text for block in self.blocks), tuple(self.repeats), self.cap
        )

    def genotypes(self) -> Iterator[ThreeStageGenotype]:
        """The canonical genotype of every list, once."""
        for text in self.automaton.texts():
            parsed = self._parse_text(text)
            assert parsed is not None, text
            yield parsed


# -- all lists -------------------------------------------------------------------------------------

States = frozenset[int]


@dataclass(frozen=True)
class _State:
    stage: int
    block: int
    offset: int  # letters read of the current block, at least 1
    before: int  # blocks of the stage that came before, as far as the limits need it


class ListAutomaton:
    """Counts and lists the different operator lists of a space without building every genotype.

    The template is a nondeterministic automaton. A state is the stage, block type and place in the
    block of the last operator, with the number of earlier blocks of the stage. Many genotypes can
    lead to one list, but each list reaches exactly one set of states. Counting paths over these
    sets counts each list once.

    `blocks`: one text per block type; `repeats`: (low, high) per stage; `cap`: most letters of a
    list.
    """

    def __init__(self, blocks: Sequence[str], repeats: Sequence[tuple[int, int]], cap: int) -> None:
        self.blocks, self.repeats, self.cap = blocks, repeats, cap
        self._ids: dict[_State, int] = {}
        self._next: list[dict[str, list[int]]] = []
        self._complete: list[bool] = []  # the list may end here at any length
        self._last: list[bool] = []  # in the late stage, which the cap may cut
        self._steps: dict[States, dict[str, States]] = {}
        self._start: dict[str, States] = {}
        self._build()

    @functools.cached_property
    def count(self) -> int:
        """Number of different lists."""
        total = 0
        # lists of the current length by the states that they reach
        paths = dict.fromkeys(self._start.values(), 1)
        for length in range(1, self.cap + 1):
            total += sum(
                number for states, number in paths.items() if self._accepts(states, length)
            )
            longer: dict[States, int] = {}
            for states, number in paths.items():
                for after in self._step(states).values():
                    longer[after] = longer.get(after, 0) + number
            paths = longer
        return total

    def texts(self) -> Iterator[str]:
        """Every list once, in depth-first order."""
        stack = [(letter, states) for letter, states in sorted(self._start.items(), reverse=True)]
        while stack:
            text, states = stack.pop()
            if self._accepts(states, len(text)):
                yield text
            if len(text) < self.cap:
                stack += [
                    (text + letter, after)
                    for letter, after in sorted(self._step(states).items(), reverse=True)
                ]

    def _accepts(self, states: States, length: int) -> bool:
        return any(self._complete[i] or (length == self.cap and self._last[i]) for i in states)

    def _step(self, states: States) -> dict[str, States]:
        if states not in self._steps:
            merged: dict[str, set[int]] = {}
            for i in states:
                for letter, after in self._next[i].items():
                    merged.setdefault(letter, set()).update(after)
            self._steps[states] = {letter: frozenset(after) for letter, after in merged.items()}
        return self._steps[states]

    def _build(self) -> None:
        waiting = [_State(0, block, 1, 0) for block in range(len(self.blocks))]
        self._ids = {state: i for i, state in enumerate(waiting)}
        for i, text in enumerate(self.blocks):
            self._start[text[0]] = self._start.get(text[0], frozenset()) | {i}
        for state in waiting:  # grows while it is read
            following: dict[str, list[int]] = {}
            for letter, after in self._following(state):
                if after not in self._ids:
                    self._ids[after] = len(waiting)
                    waiting.append(after)
                following.setdefault(letter, []).append(self._ids[after])
            late = state.stage == len(self.repeats) - 1
            enough = state.before + 1 >= self.repeats[state.stage][0]
            self._next.append(following)
            self._complete.append(late and enough and state.offset == len(self.blocks[state.block]))
            self._last.append(late)

    def _following(self, state: _State) -> Iterator[tuple[str, _State]]:
        text, (low, high) = self.blocks[state.block], self.repeats[state.stage]
        if state.offset < len(text):
            yield (
                text[state.offset],
                _State(state.stage, state.block, state.offset + 1, state.before),
            )
            return
        blocks_read = state.before + 1
        if blocks_read < high:
            before = blocks_read if high * len(text) < self.cap else min(blocks_read, low - 1)
            yield text[0], _State(state.stage, state.block, 1, before)
        if state.stage < len(self.repeats) - 1 and blocks_read >= low:
            for block, other in enumerate(self.blocks):
                yield other[0], _State(state.stage + 1, block, 1, 0)


@functools.lru_cache(maxsize=8)
def list_automaton(
    blocks: tuple[str, ...], repeats: tuple[tuple[int, int], ...], cap: int
) -> ListAutomaton:
    """Kept: one takes a fifth of a second to build and count, and a process may read a space many
    times.
    """
    return ListAutomaton(blocks, repeats, cap)
