"""Genotype of the three-stage template: what one stage repeats, and the rules that a space sets.

A block of ratio 1:k holds the first mixer once and then the second one k times, each followed by its FFNs:
with d and m2 at 1:2 and one FFN, `d f m2 f m2 f`. Both orders of a 1:1 block are in the space. A block of
ratio 0:1 holds the second mixer alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.base import Genotype

STAGES = ("early", "middle", "late")
RATIOS = ("0:1", "1:1", "1:2", "1:3")
ALONE = "0:1"
Span = tuple[int, int]  # fewest and most repeats


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
class ThreeStageGenotype(Genotype):
    """One Stage each for early, middle and late. The last stage is cut when the list is too long."""

    stages: tuple[Stage, Stage, Stage]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))


@dataclass(frozen=True, kw_only=True)
class StageRules:
    """What a three-stage space allows. mixers: in the order of its file. repeats: (low, high) number of
    blocks per stage. max_operators: of the operator list; the late stage is cut to it."""

    mixers: tuple[OperatorSpec, ...]
    ffn: FeedForward
    ratios: tuple[str, ...]
    ffns: tuple[int, ...]
    repeats: tuple[Span, Span, Span]
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
                for op1 in [op2] if ratio == ALONE else [name for name in self.names if name != op2]:
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
        return tuple(result[:self.max_operators])
