"""Genotype of the three-stage template, what one stage repeats, and the changes of aging evolution.

A block of ratio 1:k holds the first mixer once and then the second one k times, each followed by
its FFNs: with d and m2 at 1:2 and one FFN, `d f m2 f m2 f`. Both orders of a 1:1 block are in the
space. A block of ratio 0:1 holds the second mixer alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

STAGES = ("early", "middle", "late")
RATIOS = {"0:1": (0, 1), "1:1": (1, 1), "1:2": (1, 2), "1:3": (1, 3)}
ALONE = "0:1"
FFN = "f"  # in a block, whatever its options


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
        first, second = RATIOS[self.ratio]
        return (self.op1,) * first + (self.op2,) * second

    @property
    def block(self) -> tuple[str, ...]:
        """The operators of one block, mixers by their notation."""
        return tuple(part for mixer in self.mixers for part in (mixer, *[FFN] * self.ffns))

    @property
    def length(self) -> int:
        """Operators of the stage before any cut."""
        return len(self.block) * self.repeats

    def __str__(self) -> str:
        return f"{self.repeats}x({' '.join(self.block)})"


@dataclass(frozen=True)
class ThreeStageGenotype:
    """One Stage each for early, middle and late. The last stage is cut when the list is too
    long.
    """

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))


class Allowed(Protocol):
    """What a space allows in a block: mixers by their notation, ratios, numbers of FFNs."""

    names: tuple[str, ...]
    ratios: tuple[str, ...]
    ffns: tuple[int, ...]


# -- the four mutations of the paper's aging evolution, before repair ------------------------------

STEPS = (-2, -1, 1, 2)  # blocks added to or taken from one stage


def moves(
    space: Allowed, genotype: ThreeStageGenotype, rng: np.random.Generator
) -> Iterator[ThreeStageGenotype]:
    """All changes of one factor, then of the next, in random order. They may need a repair, or give
    the same list."""
    for factor in rng.permutation(len(FACTORS)):
        changes = FACTORS[factor](space, genotype)
        for i in rng.permutation(len(changes)):
            yield changes[i]


def operator_changes(space: Allowed, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(1) One operator of a block type becomes another; if it becomes its partner, the two change
    places.
    """
    result = []
    for i, stage in enumerate(genotype.stages):
        alone = stage.ratio == ALONE
        for name in space.names:
            partner = stage.op1 if name == stage.op2 else stage.op2
            for op1, op2 in [(name, name)] if alone else [(name, partner), (stage.op1, name)]:
                if (op1, op2) != (stage.op1, stage.op2) and (op1 == op2) == alone:
                    result.append(_with(genotype, i, op1=op1, op2=op2))
    return result


def ratio_changes(space: Allowed, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(2) Another ratio; repeats change so that the number of token mixers stays as nearly as
    possible.

    To 0:1 the more frequent mixer stays; from 0:1 any other mixer joins as the rarer one.
    """
    result = []
    for i, stage in enumerate(genotype.stages):
        mixers = stage.repeats * len(stage.mixers)
        for ratio in space.ratios:
            if ratio == stage.ratio:
                continue
            partners = [stage.op1]
            if ratio == ALONE:
                partners = [stage.op2]
            elif stage.ratio == ALONE:
                partners = [name for name in space.names if name != stage.op2]
            repeats = max(1, round(mixers / sum(RATIOS[ratio])))
            result += [
                _with(genotype, i, ratio=ratio, op1=op1, repeats=repeats) for op1 in partners
            ]
    return result


def ffn_changes(space: Allowed, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(3) Another number of FFNs after each mixer of a block type."""
    return [
        _with(genotype, i, ffns=ffns)
        for i, stage in enumerate(genotype.stages)
        for ffns in space.ffns
        if ffns != stage.ffns
    ]


def repeat_changes(space: Allowed, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
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
    stages = list(genotype.stages)
    stages[index] = replace(stages[index], **changes)
    return ThreeStageGenotype(tuple(stages))
