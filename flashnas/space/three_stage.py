"""The three-stage template of Nemotron-Flash (arXiv 2511.18890, section 2.2 and appendix C).

Each of three stages repeats one block type, of at most two kinds of token mixers in a fixed ratio
and 0, 1 or 2 FFNs after each mixer. The early and the middle stage are always complete and leave at
least one operator for the late stage, which is cut to fit, if necessary within a block.
Nemotron-Flash-1B itself needs more than three stages; `1x(d f m2 f) 2x(a f m2 f) 3x(d f m2 f)`
obeys the rules and has the same operators of each kind.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import SpaceError
from flashnas.base.text import shown
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.base import Value
from flashnas.space.load import (
    MAX_DEPTH,
    read_choices,
    read_list,
    read_operators,
    read_range,
    read_shared,
    whole_number,
)
from flashnas.space.operator_space import OperatorSpace
from flashnas.space.stage import (
    ALONE,
    FFN,
    RATIOS,
    STAGES,
    Stage,
    ThreeStageGenotype,
    moves,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FREE = "free"  # repeats limited by max_operators alone
COUNTED = 200_000  # genotypes of a space up to which its different lists are built, and counted


@dataclass(frozen=True, kw_only=True)
class ThreeStageFile:
    """What a file of this template holds."""

    template: str
    widths: list[int]
    blocks: dict[str, Any]
    max_operators: int
    repeats: int | list[int] | str = FREE
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StagesBlock:
    """The block `blocks` of such a file."""

    mixers: list[str]
    ratios: list[str]
    ffns_per_mixer: list[int]
    ffn: str = "f"


class ThreeStageSpace(OperatorSpace[ThreeStageGenotype]):
    """Genotypes are three stages.

    Args:
        mixers: in the order of its file.
        repeats: fewest and most blocks of a stage.
        max_operators: of the operator list; the late stage is cut to it.
    """

    template = "three_stage"

    def __init__(
        self,
        *,
        mixers: tuple[OperatorSpec, ...],
        ffn: FeedForward,
        ratios: tuple[str, ...],
        ffns: tuple[int, ...],
        repeats: tuple[int, int],
        max_operators: int,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.mixers, self.ffn = mixers, ffn
        self.ratios, self.ffns, self.repeats = ratios, ffns, repeats
        self.max_operators = max_operators
        self.names = tuple(map(str, mixers))
        self._specs = dict(zip((*self.names, FFN), (*mixers, ffn), strict=True))
        # an operator list as text, for quick look-up
        self._letters = {name: chr(ord("A") + i) for i, name in enumerate(self._specs)}
        self._letter_of = {self._specs[name]: letter for name, letter in self._letters.items()}

    # -- reading

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """Raises SpaceError with file, line, rule and value."""
        convert(data, ThreeStageFile, error=SpaceError, name="search space", closed=True)
        blocks = data["blocks"]
        convert(blocks, StagesBlock, error=SpaceError, name="blocks", closed=True)
        mixers = read_list(blocks, "mixers", "blocks", _one_operator)
        place = blocks.place("ffn")
        ffn = _one_operator(place, "blocks.ffn", blocks.get("ffn", "f"), mixer=False)
        ratios = read_choices(blocks, "ratios", "blocks", list(RATIOS))
        if len(mixers) == 1 and ALONE not in ratios:
            raise SpaceError(
                f"{blocks.place('mixers')}: blocks.mixers needs two operators for the ratio"
                f" {ratios[0]}; got one"
            )
        ffns = read_choices(blocks, "ffns_per_mixer", "blocks", (0, 1, 2))
        place = data.place("max_operators")
        cap = whole_number(place, "max_operators", data["max_operators"], 1, MAX_DEPTH)
        repeats = 1, max(1, cap - 2)  # the other stages keep an operator each
        if data.get("repeats", FREE) != FREE:
            repeats = read_range(data, "repeats", "")
        mixed = ratios if len(mixers) > 1 else (ALONE,)
        longest = max(sum(RATIOS[ratio]) for ratio in mixed) * (1 + max(ffns))
        needed = 2 * longest * repeats[0] + 1
        if cap < needed:
            raise SpaceError(
                f"{place}: max_operators must be at least {needed}, so"
                " that early and middle leave room for late even with the longest blocks"
                f" ({longest}); got {cap}"
            )
        return cls(
            mixers=mixers,
            ffn=ffn,
            ratios=ratios,
            ffns=ffns,
            repeats=repeats,
            max_operators=cap,
            **read_shared(data, name, (*mixers, ffn)),
        )

    def kinds(self) -> tuple[OperatorSpec, ...]:
        return (*self.mixers, *[self.ffn] * (max(self.ffns) > 0))

    def own_settings(self) -> dict[str, Any]:
        return {
            "blocks": {
                "mixers": list(self.names),
                "ffn": str(self.ffn),
                "ratios": list(self.ratios),
                "ffns_per_mixer": list(self.ffns),
            },
            "repeats": {stage: list(self.repeats) for stage in STAGES},
            "max_operators": self.max_operators,
        }

    # -- genotype <-> operators

    def operators(self, genotype: ThreeStageGenotype) -> tuple[OperatorSpec, ...]:
        names = [name for stage in genotype.stages for name in stage.block * stage.repeats]
        return tuple(self._specs[name] for name in names[: self.max_operators])

    @functools.cached_property
    def blocks(self) -> list[Stage]:
        """Every block type once, as a stage of one block, in a fixed order."""
        return [
            Stage(op1=op1, op2=op2, ratio=ratio, ffns=ffns, repeats=1)
            for ratio, op2, op1, ffns in itertools.product(
                self.ratios, self.names, self.names, self.ffns
            )
            if (op1 == op2) == (ratio == ALONE)
        ]

    @functools.cached_property
    def _stages(self) -> tuple[dict[str, tuple[int, Stage]], dict[str, tuple[int, Stage]]]:
        """The stages by the text of their operators, whole ones and those that are cut at their end:
        the number of the first block type that gives it, with the fewest repeats."""
        whole: dict[str, tuple[int, Stage]] = {}
        cut: dict[str, tuple[int, Stage]] = {}
        low, high = self.repeats
        for rank, block in enumerate(self.blocks):
            text = "".join(self._letters[name] for name in block.block)
            for repeats in range(low, high + 1):
                stage = rank, replace(block, repeats=repeats)
                whole.setdefault(text * repeats, stage)
                for length in range(1, min(len(text) * repeats, self.max_operators) + 1):
                    cut.setdefault((text * repeats)[:length], stage)
        return whole, cut

    def find(self, operators: Sequence[OperatorSpec]) -> ThreeStageGenotype | None:
        """Of all genotypes that build the list, the one with the most even stages."""
        letters = [self._letter_of.get(spec, "") for spec in operators]
        return self._parsed("".join(letters)) if all(letters) else None

    def _parsed(self, text: str) -> ThreeStageGenotype | None:
        whole, cut = self._stages
        length = len(text)
        late_stages = cut if length == self.max_operators else whole
        best: tuple[tuple[int, ...], ThreeStageGenotype] | None = None
        for start in range(1, length - 1):
            if length > self.max_operators or text[:start] not in whole:
                continue
            for end in range(start + 1, length):
                if text[start:end] in whole and text[end:] in late_stages:
                    found = whole[text[:start]], whole[text[start:end]], late_stages[text[end:]]
                    sizes = start, end - start, length - end
                    key = (max(sizes), -min(sizes), start, *(rank for rank, _ in found))
                    if best is None or key < best[0]:
                        best = key, ThreeStageGenotype(tuple(stage for _, stage in found))
        return None if best is None else best[1]

    def repair(self, genotype: ThreeStageGenotype) -> ThreeStageGenotype:
        """Keep the operator list where the limits allow; else shorten the longer of early and
        middle.
        """
        early, middle, late = map(self._repair_stage, genotype.stages)
        while early.length + middle.length >= self.max_operators:
            can_early, can_middle = (stage.repeats > self.repeats[0] for stage in (early, middle))
            if can_early and (early.length > middle.length or not can_middle):
                early = replace(early, repeats=early.repeats - 1)
            else:
                middle = replace(middle, repeats=middle.repeats - 1)
        repaired = self.find(self.operators(ThreeStageGenotype((early, middle, late))))
        assert repaired is not None, genotype  # every repaired genotype is inside the rules
        return repaired

    def _repair_stage(self, stage: Stage) -> Stage:
        op1, ratio, repeats = stage.op1, stage.ratio, stage.repeats
        if ratio == ALONE:
            op1 = stage.op2
        elif op1 == stage.op2 and ALONE in self.ratios:
            ratio, repeats = ALONE, repeats * len(stage.mixers)
        elif op1 == stage.op2:
            op1 = self.names[(self.names.index(op1) + 1) % len(self.names)]
        low, high = self.repeats
        return replace(stage, op1=op1, ratio=ratio, repeats=min(max(repeats, low), high))

    # -- drawing

    def sample(self, rng: np.random.Generator) -> ThreeStageGenotype:
        """Uniform block types; a uniform depth, shared out among the stages at random
        (Dirichlet).
        """
        blocks = [self._sample_block(rng) for _ in STAGES]
        depth = rng.integers(min(len(STAGES), self.max_operators), self.max_operators + 1)
        shares = rng.dirichlet(np.ones(len(STAGES)))
        stages = (
            replace(block, repeats=max(1, round(depth * share / block.length)))
            for block, share in zip(blocks, shares, strict=True)
        )
        return self.repair(ThreeStageGenotype(tuple(stages)))

    def _sample_block(self, rng: np.random.Generator) -> Stage:
        ratios = self.ratios if len(self.names) > 1 else (ALONE,)
        ratio = ratios[rng.integers(len(ratios))]
        op2 = self.names[rng.integers(len(self.names))]
        others = [name for name in self.names if name != op2]
        op1 = op2 if ratio == ALONE else others[rng.integers(len(others))]
        ffns = self.ffns[rng.integers(len(self.ffns))]
        return Stage(op1=op1, op2=op2, ratio=ratio, ffns=ffns, repeats=1)

    def mutate(self, genotype: ThreeStageGenotype, rng: np.random.Generator) -> ThreeStageGenotype:
        """Change one factor, drawn uniformly; where it gives no other operator list, the next
        one.
        """
        genotype = self.repair(genotype)
        return self.first_other(genotype, moves(self, genotype, rng))

    # -- Optuna

    def encode(self, genotype: ThreeStageGenotype) -> dict[str, Value]:
        return {
            f"{name}_{field}": value
            for name, stage in zip(STAGES, genotype.stages, strict=True)
            for field, value in asdict(stage).items()
        }

    def decode(self, params: Mapping[str, Any]) -> ThreeStageGenotype:
        stages = (
            Stage(**{field.name: params[f"{stage}_{field.name}"] for field in fields(Stage)})
            for stage in STAGES
        )
        return self.repair(ThreeStageGenotype(tuple(stages)))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Repeats are logarithmic: one block more matters less in a long stage."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        of_stage: dict[str, BaseDistribution] = {
            "op1": CategoricalDistribution(self.names),
            "op2": CategoricalDistribution(self.names),
            "ratio": CategoricalDistribution(self.ratios),
            "ffns": CategoricalDistribution(self.ffns),
            "repeats": IntDistribution(*self.repeats, log=True),
        }
        return {f"{stage}_{name}": value for stage in STAGES for name, value in of_stage.items()}

    # -- counting

    @functools.cached_property
    def _texts(self) -> list[str]:
        """Every list of a small space, once, in alphabetical order."""
        whole = self._stages[0]
        starts = {early + middle for early in whole for middle in whole}
        short = [start for start in starts if len(start) < self.max_operators]
        return sorted({(start + late)[: self.max_operators] for start in short for late in whole})

    def size(self) -> int:
        """Number of different lists; where it is not small, of genotypes."""
        genotypes = len(self._stages[0]) ** len(STAGES)
        return len(self._texts) if genotypes <= COUNTED else genotypes

    def enumerate(self) -> Iterator[ThreeStageGenotype]:
        for text in self._texts:
            parsed = self._parsed(text)
            assert parsed is not None, text
            yield parsed


def _one_operator(place: str, name: str, value: str, mixer: bool = True) -> Any:
    """The token mixer, or feed-forward network, that a setting names."""
    spec, *more = read_operators(place, name, value)
    if more or not (spec.mixes_tokens if mixer else isinstance(spec, FeedForward)):
        other = "a feed-forward network such as f(intermediate=4096)"
        what = "one token mixer" if mixer else other
        raise SpaceError(f"{place}: {name} must be {what}; got {shown(value)}")
    return spec
