"""Genotype of the three-stage template: what one stage repeats, and in which order its operators stand.

A block of ratio 1:k holds the first mixer once and then the second one k times, each followed by its FFNs: with d and
m2 at 1:2 and one FFN, `d f m2 f m2 f`. So the rarer mixer leads, as in Nemotron-Flash's `d f m2 f`. Both orders of a
1:1 block are in the space (`d f m2 f` and `m2 f d f`). A block of ratio 0:1 holds the second mixer alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashnas.space.base import Genotype

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
class ThreeStageGenotype(Genotype):
    """One Stage each for early, middle and late. The last stage is cut when the list is too long."""

    stages: tuple[Stage, Stage, Stage]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))
