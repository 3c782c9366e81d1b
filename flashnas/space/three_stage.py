"""The three-stage template of Nemotron-Flash (arXiv 2511.18890, section 2.2 and appendix C).

Each of three stages repeats one block type, of at most two kinds of token mixers in a fixed ratio
and 0, 1 or 2 FFNs after each mixer. The early and the middle stage are always complete and leave at
least one operator for the late stage, which is cut to fit, if necessary within a block.
Nemotron-Flash-1B itself needs more than three stages; `1x(d f m2 f) 2x(a f m2 f) 3x(d f m2 f)`
obeys the rules and has the same operators of each kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import SpaceError
from flashnas.base.text import one_of, shown
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.base import Value
from flashnas.space.load import (
    MAX_DEPTH,
    check_distinct,
    check_unique,
    entries,
    read_choices,
    read_model,
    read_operators,
    read_range,
    read_widths,
    whole_number,
)
from flashnas.space.operator_space import OperatorSpace
from flashnas.space.stage import (
    ALONE,
    RATIOS,
    STAGES,
    Stage,
    StageParser,
    StageRules,
    ThreeStageGenotype,
    moves,
    ratio_counts,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FREE = "free"  # repeats limited by max_operators alone


@dataclass(frozen=True, kw_only=True)
class ThreeStageFile:
    """What a file of this template holds."""

    template: str
    widths: list[Any]
    blocks: dict[str, Any]
    max_operators: int
    repeats: int | list[Any] | str = FREE
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StagesBlock:
    """The block `blocks` of such a file."""

    mixers: list[Any]
    ratios: list[Any]
    ffns_per_mixer: list[Any]
    ffn: str = "f"


class ThreeStageSpace(OperatorSpace[ThreeStageGenotype]):
    """Genotypes are three stages within `rules`."""

    template = "three_stage"

    def __init__(self, *, rules: StageRules, **shared: Any) -> None:
        super().__init__(**shared)
        self.rules = rules
        self.max_operators = rules.max_operators
        self._parser = StageParser(rules)

    # -- reading

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """Raises SpaceError with file, line, rule and value."""
        convert(data, ThreeStageFile, error=SpaceError, name="search space", closed=True)
        blocks = data["blocks"]
        convert(blocks, StagesBlock, error=SpaceError, name="blocks", closed=True)
        model, widths = read_model(data), read_widths(data)
        mixers = _read_mixers(blocks, widths)
        ffn = _read_ffn(blocks, widths)
        ratios = _read_ratios(blocks, mixers)
        ffns = read_choices(blocks, "ffns_per_mixer", "blocks", (0, 1, 2))
        cap = whole_number(
            data.place("max_operators"),
            "max_operators",
            data["max_operators"],
            1,
            MAX_DEPTH,
        )
        repeats = _read_repeats(data, cap)
        mixed = ratios if len(mixers) > 1 else (ALONE,)
        longest = max(sum(ratio_counts(ratio)) for ratio in mixed) * (1 + max(ffns))
        needed = 2 * longest * repeats[0] + 1
        if cap < needed:
            raise SpaceError(
                f"{data.place('max_operators')}: max_operators must be at least {needed}, so"
                " that early and middle leave room for late even with the longest blocks"
                f" ({longest}); got {cap}"
            )
        rules = StageRules(
            mixers=mixers, ffn=ffn, ratios=ratios, ffns=ffns, repeats=repeats, max_operators=cap
        )
        return cls(name=name, path=data.path, hidden_sizes=widths, model=model, rules=rules)

    def kinds(self) -> tuple[OperatorSpec, ...]:
        return (*self.rules.mixers, *[self.rules.ffn] * (max(self.rules.ffns) > 0))

    def own_settings(self) -> dict[str, Any]:
        rules = self.rules
        return {
            "blocks": {
                "mixers": list(rules.names),
                "ffn": str(rules.ffn),
                "ratios": list(rules.ratios),
                "ffns_per_mixer": list(rules.ffns),
            },
            "repeats": {stage: list(rules.repeats) for stage in STAGES},
            "max_operators": rules.max_operators,
        }

    # -- genotype <-> operators

    def operators(self, genotype: ThreeStageGenotype) -> tuple[OperatorSpec, ...]:
        return self.rules.operators(genotype)

    def find(self, operators: Sequence[OperatorSpec]) -> ThreeStageGenotype | None:
        """Of all genotypes that build the list, the one with the most even stages."""
        return self._parser.parse(operators)

    def repair(self, genotype: ThreeStageGenotype) -> ThreeStageGenotype:
        """Keep the operator list where the limits allow; else shorten the longer of early and
        middle.
        """
        early, middle, late = (
            self._repair_stage(i, stage) for i, stage in enumerate(genotype.stages)
        )
        while early.length + middle.length >= self.max_operators:
            can_early, can_middle = (
                stage.repeats > self.rules.repeats[0] for stage in (early, middle)
            )
            if can_early and (early.length > middle.length or not can_middle):
                early = dataclasses.replace(early, repeats=early.repeats - 1)
            else:
                middle = dataclasses.replace(middle, repeats=middle.repeats - 1)
        repaired = self.find(self.operators(ThreeStageGenotype((early, middle, late))))
        assert repaired is not None, genotype  # every repaired genotype is inside the rules
        return repaired

    def _repair_stage(self, index: int, stage: Stage) -> Stage:
        place = f"{self.path}: {STAGES[index]}"
        rules = self.rules
        allowed: dict[str, Sequence[Any]] = {"op1": rules.names, "op2": rules.names}
        allowed |= {"ratio": rules.ratios, "ffns": rules.ffns}
        for name, values in allowed.items():
            if (value := getattr(stage, name)) not in values:
                raise SpaceError(one_of(f"{place}.{name}", value, map(str, values)))
        op1 = stage.op1
        ratio = stage.ratio
        repeats = stage.repeats
        if ratio == ALONE:
            op1 = stage.op2
        elif op1 == stage.op2 and ALONE in rules.ratios:
            ratio, repeats = ALONE, repeats * sum(ratio_counts(ratio))
        elif op1 == stage.op2:
            op1 = rules.names[(rules.names.index(op1) + 1) % len(rules.names)]
        low, high = rules.repeats
        repeats = min(max(repeats, low), high)
        return dataclasses.replace(stage, op1=op1, ratio=ratio, repeats=repeats)

    # -- drawing

    def sample(self, rng: np.random.Generator) -> ThreeStageGenotype:
        """Uniform block types; a uniform depth, shared out among the stages at random
        (Dirichlet).
        """
        blocks = [self._sample_block(rng) for _ in STAGES]
        depth = rng.integers(min(len(STAGES), self.max_operators), self.max_operators + 1)
        shares = rng.dirichlet(np.ones(len(STAGES)))
        stages = (
            dataclasses.replace(block, repeats=max(1, round(depth * share / block.block_length)))
            for block, share in zip(blocks, shares, strict=True)
        )
        return self.repair(ThreeStageGenotype(tuple(stages)))

    def _sample_block(self, rng: np.random.Generator) -> Stage:
        ratios = self.rules.ratios if len(self.rules.names) > 1 else (ALONE,)
        ratio = ratios[rng.integers(len(ratios))]
        op2 = self.rules.names[rng.integers(len(self.rules.names))]
        others = [name for name in self.rules.names if name != op2]
        op1 = op2 if ratio == ALONE else others[rng.integers(len(others))]
        return Stage(
            op1=op1,
            op2=op2,
            ratio=ratio,
            ffns=self.rules.ffns[rng.integers(len(self.rules.ffns))],
            repeats=1,
        )

    def mutate(self, genotype: ThreeStageGenotype, rng: np.random.Generator) -> ThreeStageGenotype:
        """Change one factor, drawn uniformly; where it gives no other operator list, the next
        one.
        """
        genotype = self.repair(genotype)
        return self.first_other(genotype, moves(self.rules, genotype, rng))

    # -- Optuna

    def encode(self, genotype: ThreeStageGenotype) -> dict[str, Value]:
        return {
            f"{name}_{field}": value
            for name, stage in zip(STAGES, genotype.stages, strict=True)
            for field, value in dataclasses.asdict(stage).items()
        }

    def decode(self, params: Mapping[str, Any]) -> ThreeStageGenotype:
        fields = [field.name for field in dataclasses.fields(Stage)]
        stages = (
            Stage(**{field: params[f"{stage}_{field}"] for field in fields}) for stage in STAGES
        )
        return self.repair(ThreeStageGenotype(tuple(stages)))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Repeats are logarithmic: one block more matters less in a long stage."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        fields: dict[str, BaseDistribution] = {
            "op1": CategoricalDistribution(self.rules.names),
            "op2": CategoricalDistribution(self.rules.names),
            "ratio": CategoricalDistribution(self.rules.ratios),
            "ffns": CategoricalDistribution(self.rules.ffns),
            "repeats": IntDistribution(*self.rules.repeats, log=True),
        }
        return {f"{stage}_{name}": value for stage in STAGES for name, value in fields.items()}

    # -- counting

    def size(self) -> int:
        return self._parser.count

    def enumerate(self) -> Iterator[ThreeStageGenotype]:
        return self._parser.genotypes()


def _read_ratios(blocks: LocatedDict, mixers: tuple[OperatorSpec, ...]) -> tuple[str, ...]:
    ratios = read_choices(blocks, "ratios", "blocks", RATIOS)
    if len(mixers) == 1 and ALONE not in ratios:
        raise SpaceError(
            f"{blocks.place('mixers')}: blocks.mixers needs two operators for the ratio"
            f" {ratios[0]}; got one"
        )
    return ratios


def _read_repeats(data: LocatedDict, cap: int) -> tuple[int, int]:
    value = data.get("repeats", FREE)
    if value == FREE:
        return 1, max(1, cap - 2)  # the other stages keep an operator each
    if isinstance(value, str):
        raise SpaceError(
            f"{data.place('repeats')}: repeats must be {FREE}, a number or [low, high];"
            f" got {value!r}"
        )
    return read_range(data, "repeats", "")


def _read_mixers(blocks: LocatedDict, widths: tuple[int, ...]) -> tuple[OperatorSpec, ...]:
    """A list of different token mixers."""
    items = entries(blocks, "mixers", "blocks")
    mixers = []
    for place, name, value in items:
        operators = read_operators(place, name, value, widths)
        if len(operators) != 1 or not operators[0].mixes_tokens:
            raise SpaceError(f"{place}: {name} must be one token mixer; got {shown(value)}")
        mixers.append(operators[0])
    check_unique(items, mixers)
    check_distinct(blocks.place("mixers"), "blocks.mixers", mixers, widths)
    return tuple(mixers)


def _read_ffn(blocks: LocatedDict, widths: tuple[int, ...]) -> FeedForward:
    """One feed-forward network; `f` if the key is missing."""
    place = blocks.place("ffn")
    operators = read_operators(place, "blocks.ffn", blocks.get("ffn", "f"), widths)
    if len(operators) != 1 or not isinstance(operators[0], FeedForward):
        raise SpaceError(
            f"{place}: blocks.ffn must be a feed-forward network such as f(intermediate=4096); got"
            f" {shown(blocks['ffn'])}"
        )
    return operators[0]
