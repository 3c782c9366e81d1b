"""Counts and lists the different operator lists of a three-stage space without building every genotype.

The template is a nondeterministic automaton: a state says in which stage, block type and place of the block the last
operator stood, and how many blocks of the stage came before. Many genotypes can lead to one list, but the set of
states reached by a list is one, so counting paths over these sets counts each list once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

States = frozenset[int]


@dataclass(frozen=True)
class _State:
    stage: int
    block: int
    offset: int   # letters read of the current block, at least 1
    before: int   # blocks of the stage that came before, as far as the limits need it


class ListAutomaton:
    """`blocks`: one text per block type; `repeats`: (low, high) per stage; `cap`: most letters of a list."""

    def __init__(self, blocks: Sequence[str], repeats: Sequence[tuple[int, int]], cap: int) -> None:
        self.blocks, self.repeats, self.cap = blocks, repeats, cap
        self._ids: dict[_State, int] = {}
        self._next: list[dict[str, list[int]]] = []
        self._complete: list[bool] = []   # the list may end here at any length
        self._last: list[bool] = []       # in the late stage, which the cap may cut
        self._steps: dict[States, dict[str, States]] = {}
        self._start: dict[str, States] = {}
        for block, text in enumerate(blocks):
            known = self._start.get(text[0], frozenset())
            self._start[text[0]] = known | {self._add(_State(0, block, 1, 0))}

    def count(self) -> int:
        """Number of different lists."""
        known: dict[tuple[States, int], int] = {}

        def below(states: States, length: int) -> int:
            key = (states, length)
            if key not in known:
                known[key] = self._accepts(states, length) + (
                    sum(below(after, length + 1) for after in self._step(states).values())
                    if length < self.cap else 0)
            return known[key]

        return sum(below(states, 1) for states in self._start.values())

    def texts(self) -> Iterator[str]:
        """Every list once, in depth-first order."""
        stack = [(letter, states) for letter, states in sorted(self._start.items(), reverse=True)]
        while stack:
            text, states = stack.pop()
            if self._accepts(states, len(text)):
                yield text
            if len(text) < self.cap:
                stack += [(text + letter, after) for letter, after in sorted(self._step(states).items(), reverse=True)]

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

    def _add(self, start: _State) -> int:
        """Number of the state; adds it and all that follow it."""
        if start in self._ids:
            return self._ids[start]
        index = self._ids[start] = len(self._next)
        self._next.append({})
        text, (low, high) = self.blocks[start.block], self.repeats[start.stage]
        ends, blocks_read = start.offset == len(text), start.before + 1
        last = start.stage == len(self.repeats) - 1
        self._complete.append(ends and last and blocks_read >= low)
        self._last.append(last)
        following = []
        if not ends:
            following.append((text[start.offset], _State(start.stage, start.block, start.offset + 1, start.before)))
        elif blocks_read < high:
            before = blocks_read if high * len(text) < self.cap else min(blocks_read, low - 1)
            following.append((text[0], _State(start.stage, start.block, 1, before)))
        if ends and not last and blocks_read >= low:
            following += [(other[0], _State(start.stage + 1, block, 1, 0)) for block, other in enumerate(self.blocks)]
        for letter, state in following:
            self._next[index].setdefault(letter, []).append(self._add(state))
        return index
