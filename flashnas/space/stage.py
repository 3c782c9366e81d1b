"""Genotype of the three-stage template: what one stage repeats, and the rules that a space sets.

A block of ratio 1:k holds the first mixer once and then the second one k times, each followed by
its FFNs: with d and m2 at 1:2 and one FFN, `d f m2 f m2 f`. Both orders of a 1:1 block are in the
space. A block of ratio 0:1 holds the second mixer alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward

STAGES = ("early", "middle", "late")
RATIOS = ("0:1", "1:1", "1:2", "1:3")
ALONE = "0:1"


def ratio_counts(ratio: str) -> tuple[int, int]:
    """`"1:2"` -> (1, 2)."""
    first, second = ratio.split(":")
    return int(first), int(second)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A block type and how often it repeats. In a 0:1 block op1 has no meaning and equals op2."""

    op1: str
    op2: str
    ratio: str
    ffns: int
    repeats: int

    @property
    def mixers(self) -> tuple[str, ...]:
        """The token mixers of one block, in order."""
        first, second = ratio_counts(self.ratio)
        return (self.op1,) * first + (self.op2,) * second

    @property
    def block_length(self) -> int:
        """Operators of one block."""
        return sum(ratio_counts(self.ratio)) * (1 + self.ffns)

    @property
    def length(self) -> int:
        """Operators of the stage before any cut."""
        return self.block_length * self.repeats

    def __str__(self) -> str:
        block = " ".join(f"{op}{' f' * self.ffns}" for op in self.mixers)
        return f"{self.repeats}x({block})"


@dataclass(frozen=True)
class ThreeStageGenotype:
    """One Stage each for early, middle and late. The last stage is cut when the list is too
    long.
    """

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))


@dataclass(frozen=True, kw_only=True)
class StageRules:
    """What a three-stage space allows. mixers: in the order of its file. repeats: (low, high)
    number of blocks of a stage. max_operators: of the operator list; the late stage is cut to
    it."""

    mixers: tuple[OperatorSpec, ...]
    ffn: FeedForward
    ratios: tuple[str, ...]
    ffns: tuple[int, ...]
    repeats: tuple[int, int]
    max_operators: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The mixers in notation, as genotypes hold them."""
        return tuple(map(str, self.mixers))

    @cached_property
    def specs(self) -> dict[str, OperatorSpec]:
        """The mixers by name."""
        return dict(zip(self.names, self.mixers, strict=True))

    def blocks(self) -> Iterator[Stage]:
        """Every block type once, as a stage of one block, in a fixed order."""
        for ratio in self.ratios:
            for op2 in self.names:
                for op1 in (
                    [op2] if ratio == ALONE else [name for name in self.names if name != op2]
                ):
                    for ffns in self.ffns:
                        yield Stage(op1=op1, op2=op2, ratio=ratio, ffns=ffns, repeats=1)

    def operators(self, genotype: ThreeStageGenotype) -> tuple[OperatorSpec, ...]:
        """The operator list of a genotype, cut to `max_operators`."""
        result: list[OperatorSpec] = []
        for stage in genotype.stages:
            block: list[OperatorSpec] = []
            for name in stage.mixers:
                block += [self.specs[name], *[self.ffn] * stage.ffns]
            result += block * stage.repeats
        return tuple(result[: self.max_operators])


# -- the four mutations of the paper's aging evolution, before repair ------------------------------

STEPS = (-2, -1, 1, 2)  # blocks added to or taken from one stage


def moves(
    rules: StageRules, genotype: ThreeStageGenotype, rng: np.random.Generator
) -> Iterator[ThreeStageGenotype]:
    """All changes of one factor, then of the next, in random order. They may need a repair, or give
    the same list."""
    for factor in rng.permutation(len(FACTORS)):
        changes = FACTORS[factor](rules, genotype)
        for i in rng.permutation(len(changes)):
            yield changes[i]


def operator_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(1) One operator of a block type becomes another; if it becomes its partner, the two change
    places.
    """
    result = []
    for i, stage in enumerate(genotype.stages):
        for name in rules.names:
            if stage.ratio == ALONE:
                result += [_with(genotype, i, op1=name, op2=name)] if name != stage.op2 else []
                continue
            swap = {stage.op1: stage.op2, stage.op2: stage.op1}
            if name != stage.op1:
                result.append(_with(genotype, i, op1=name, op2=swap.get(name, stage.op2)))
            if name not in swap:
                result.append(_with(genotype, i, op2=name))
    return result


def ratio_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(2) Another ratio; repeats change so that the number of token mixers stays as nearly as
    possible.

    To 0:1 the more frequent mixer stays; from 0:1 any other mixer joins as the rarer one.
    """
    result = []
    for i, stage in enumerate(genotype.stages):
        mixers = stage.repeats * sum(ratio_counts(stage.ratio))
        for ratio in rules.ratios:
            if ratio == stage.ratio:
                continue
            repeats = max(1, round(mixers / sum(ratio_counts(ratio))))
            partners = (
                [stage.op2]
                if ratio == ALONE
                else [name for name in rules.names if name != stage.op2]
                if stage.ratio == ALONE
                else [stage.op1]
            )
            result += [
                _with(genotype, i, ratio=ratio, op1=op1, repeats=repeats) for op1 in partners
            ]
    return result


def ffn_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(3) Another number of FFNs after each mixer of a block type."""
    return [
        _with(genotype, i, ffns=ffns)
        for i, stage in enumerate(genotype.stages)
        for ffns in rules.ffns
        if ffns != stage.ffns
    ]


def repeat_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(4) Blocks join or leave one stage, or one block moves from a stage to another."""
    result = [
        _with(genotype, i, repeats=stage.repeats + step)
        for i, stage in enumerate(genotype.stages)
        for step in STEPS
        if stage.repeats + step >= 1
    ]
    for i, giver in enumerate(genotype.stages):
        for j, taker in enumerate(genotype.stages):
            if i != j and giver.repeats > 1:
                smaller = _with(genotype, i, repeats=giver.repeats - 1)
                result.append(_with(smaller, j, repeats=taker.repeats + 1))
    return result


FACTORS = (operator_changes, ratio_changes, ffn_changes, repeat_changes)


def _with(genotype: ThreeStageGenotype, index: int, **changes: Any) -> ThreeStageGenotype:
    stages: list[Stage] = list(genotype.stages)
    stages[index] = dataclasses.replace(stages[index], **changes)
    return ThreeStageGenotype(tuple(stages))


# -- operator list -> genotype, and the number of different lists ----------------------------------


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
