"""The four mutations of the paper's aging evolution, as changes to a three-stage genotype (before repair)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from flashnas.space.stage import ALONE, STAGES, Stage, StageRules, ThreeStageGenotype, ratio_counts

STEPS = (-2, -1, 1, 2)  # blocks added to or taken from one stage


def moves(rules: StageRules, genotype: ThreeStageGenotype,
          rng: np.random.Generator) -> Iterator[ThreeStageGenotype]:
    """All changes of one factor: factors in random order, the changes of each factor in random order. They
    may need a repair; some may build the parent's operator list."""
    for factor in rng.permutation(len(FACTORS)):
        changes = FACTORS[factor](rules, genotype)
        for i in rng.permutation(len(changes)):
            yield changes[i]


def operator_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(1) One operator of a block type becomes another; if it becomes its partner, the two change places."""
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
    """(2) Another ratio; repeats change so that the number of token mixers stays as nearly as possible.

    To 0:1 the more frequent mixer stays; from 0:1 any other mixer joins as the rarer one.
    """
    result = []
    for i, stage in enumerate(genotype.stages):
        mixers = stage.repeats * sum(ratio_counts(stage.ratio))
        for ratio in rules.ratios:
            if ratio == stage.ratio:
                continue
            repeats = max(1, round(mixers / sum(ratio_counts(ratio))))
            partners = ([stage.op2] if ratio == ALONE
                        else [name for name in rules.names if name != stage.op2] if stage.ratio == ALONE
                        else [stage.op1])
            result += [_with(genotype, i, ratio=ratio, op1=op1, repeats=repeats) for op1 in partners]
    return result


def ffn_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(3) Another number of FFNs after each mixer of a block type."""
    return [_with(genotype, i, ffns=ffns) for i, stage in enumerate(genotype.stages)
            for ffns in rules.ffns if ffns != stage.ffns]


def repeat_changes(rules: StageRules, genotype: ThreeStageGenotype) -> list[ThreeStageGenotype]:
    """(4) Blocks join or leave one stage, or one block moves from a stage to another."""
    result = [_with(genotype, i, repeats=stage.repeats + step) for i, stage in enumerate(genotype.stages)
              for step in STEPS if stage.repeats + step >= 1]
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
    assert len(stages) == len(STAGES)
    return ThreeStageGenotype((stages[0], stages[1], stages[2]))
