"""Counts and lists the different operator lists of a three-stage space without building every genotype.

The template is a nondeterministic automaton. A state is the stage, block type and place in the block of the
last operator, with the number of earlier blocks of the stage. Many genotypes can lead to one list, but each
list reaches exactly one set of states. Counting paths over these sets therefore counts each list once.
"""

from __future__ import annotations

import functools
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
        self._build()

    @functools.cached_property
    def count(self) -> int:
        """Number of different lists."""
        total = 0
        # lists of the current length by the states that they reach
        paths = dict.fromkeys(self._start.values(), 1)
        for length in range(1, self.cap + 1):
            total += sum(number for states, number in paths.items() if self._accepts(states, length))
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
                stack += [(text + letter, after) for letter, after in sorted(self._step(states).items(),
                                                                             reverse=True)]

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
        """Number all states that can be reached and note what follows each."""
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
            yield text[state.offset], _State(state.stage, state.block, state.offset + 1, state.before)
            return
        blocks_read = state.before + 1
        if blocks_read < high:
            before = blocks_read if high * len(text) < self.cap else min(blocks_read, low - 1)
            yield text[0], _State(state.stage, state.block, 1, before)
        if state.stage < len(self.repeats) - 1 and blocks_read >= low:
            for block, other in enumerate(self.blocks):
                yield other[0], _State(state.stage + 1, block, 1, 0)


@functools.lru_cache(maxsize=8)
def list_automaton(blocks: tuple[str, ...], repeats: tuple[tuple[int, int], ...], cap: int) -> ListAutomaton:
    """Kept: one takes a fifth of a second to build and count, and a process may read a space many times."""
    return ListAutomaton(blocks, repeats, cap)
