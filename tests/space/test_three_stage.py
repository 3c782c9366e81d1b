"""The three-stage template against its rules, written out again here with itertools and nothing of
flashnas.
"""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from cases import data_of
from offenders import every
from space_contract import check_space

from flashnas.architecture import Architecture, parse_operators
from flashnas.architecture.source import presets
from flashnas.base.documents import parse_yaml
from flashnas.space import load_space
from flashnas.space.stage import (
    FACTORS,
    Stage,
    ThreeStageGenotype,
    ffn_changes,
    operator_changes,
    ratio_changes,
    repeat_changes,
)
from flashnas.space.three_stage import ThreeStageSpace

SMALL = data_of("space/small")["three_stage"]
TEXT = """\
template: three_stage
model: {{vocab: 512, meta_tokens: 2}}
widths: [64, 128]
blocks: {{mixers: {heads}, ratios: {ratios}, ffns_per_mixer: {ffns}}}
repeats: {repeats}
max_operators: {cap}
"""


def small_space(name):
    heads = [f"{mixer}(head_dim=16)" for mixer in SMALL[name]["mixers"]]
    text = TEXT.format(heads=heads, **SMALL[name])
    return ThreeStageSpace.from_config(parse_yaml(text, "small.yaml"), name=name)


def block_types(mixers, ratios, ffns):
    """Every block type as a tuple of short names."""
    for ratio, ffn in itertools.product(ratios, ffns):
        first, second = map(int, ratio.split(":"))
        for op1, op2 in itertools.product(mixers, mixers):
            if first and op1 == op2:
                continue  # two kinds of mixers
            block = []
            for op in [op1] * first + [op2] * second:
                block += [op] + ["f"] * ffn
            yield tuple(block)


def brute_force(mixers, ratios, ffns, repeats, cap):
    """Every operator list that the rules allow."""
    blocks = sorted(set(block_types(mixers, ratios, ffns)))
    low, high = repeats
    stages = {block * times for block in blocks for times in range(low, high + 1)}
    starts = {early + middle for early, middle in itertools.product(stages, stages)}
    return {
        (start + late)[:cap]
        for start, late in itertools.product(starts, stages)
        if len(start) < cap
    }


def kinds(operators):
    return tuple(spec.kind for spec in operators)


@pytest.fixture(scope="module", params=list(SMALL))
def case(request):
    return small_space(request.param), brute_force(**SMALL[request.param])


def test_enumeration_is_the_brute_force_enumeration(case):
    space, expected = case
    genotypes = list(space.enumerate())
    lists = [kinds(space.operators(genotype)) for genotype in genotypes]
    assert len(lists) == len(set(lists)) == len(set(genotypes)) == space.size()
    assert set(lists) == expected


def test_find_takes_exactly_the_lists_that_the_rules_allow(case):
    space, expected = case
    specs = {spec.kind: spec for spec in space.kinds()}
    for operators in itertools.islice(sorted(expected), 0, None, 37):
        for place, kind in itertools.product(range(len(operators) + 1), specs):
            # one operator in the place of another one, or at the end
            other = (*operators[:place], kind, *operators[place + 1 :])
            found = space.find([specs[kind] for kind in other])
            assert (found is not None) == (other in expected), other


def test_samples_mutants_and_decoded_parameters_keep_the_contract(case):
    """Inside the enumeration, canonical, encoded and back."""
    check_space(case[0])


@pytest.mark.parametrize("name", ["three mixers", "no 0:1", "one mixer"])
def test_every_genotype_reaches_every_other_by_mutation(name):
    space = small_space(name)
    genotypes = list(space.enumerate())
    after = {
        genotype: {space.repair(change) for factor in FACTORS for change in factor(space, genotype)}
        for genotype in genotypes
    }
    before = defaultdict(set)
    for genotype, changes in after.items():
        for change in changes:
            before[change].add(genotype)
    for edges in (after, before):
        reached, waiting = {genotypes[0]}, [genotypes[0]]
        while waiting:
            new = edges[waiting.pop()] - reached
            reached |= new
            waiting += new
        assert len(reached) == len(genotypes)


# -- the paper's space -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper():
    return load_space("nemotron_flash")


def test_paper_space_is_the_papers(paper):
    assert paper.hidden_sizes == (1024, 1280, 1536, 1792, 2048, 2304, 2560)
    assert [spec.kind for spec in paper.kinds()] == ["d", "a", "m2", "f"]
    assert (paper.ratios, paper.ffns, paper.max_operators) == (
        ("0:1", "1:1", "1:2", "1:3"),
        (0, 1, 2),
        30,
    )
    assert paper.size() == (63 * 28) ** 3  # block types, and how often each stage repeats its own
    rng = np.random.default_rng(0)
    assert max(len(paper.operators(paper.sample(rng))) for _ in range(100)) == 30


def test_nemotron_flash_1b_is_outside_and_its_twin_inside(paper):
    original = presets()["Nemotron-Flash-1B"]
    twin = Architecture.parse("2048(meta=256): 1x(d f m2 f) 2x(a f m2 f) 3x(d f m2 f)")
    assert not paper.contains(original)
    assert paper.contains(twin)
    assert paper.contains(twin.canonical())  # explicit options, same network
    assert twin.params == original.params


@every(
    text=[
        "2048: 3x(d f)",
        "2048(meta=256): d f",
        "1000(meta=256): 3x(m2(head_dim=8) f)",
        "2048(meta=256): 16x(d f)",
        "2048(meta=256,vocab=512): 3x(d f)",
        "2048(meta=256,tied=false): 3x(d f)",
        "2048(meta=256): 3x(gd f)",
        "2048(meta=256): f d f d f",
        "2048(meta=256): 3x(d(head_dim=64) f)",
        "2048(meta=256): 3x(d f f f)",
    ]
)
def test_contains_refuses_what_the_space_does_not_build(paper, text):
    assert not paper.contains(Architecture.parse(text))


def test_equal_networks_have_equal_genotypes(paper):
    def repaired(*stages):
        fields = ("op1", "op2", "ratio", "ffns", "repeats")
        return paper.repair(
            ThreeStageGenotype(
                tuple(Stage(**dict(zip(fields, stage, strict=True))) for stage in stages)
            )
        )

    pure = [
        repaired(("a", "d", "0:1", 1, i), ("m2", "d", "0:1", 1, j), ("d", "d", "1:1", 1, k))
        for i, j, k in ((1, 1, 1), (2, 1, 1), (1, 2, 1))
    ]
    # the late stage has op1 == op2: one kind of mixer, two per block
    assert str(pure[0]) == "1x(d f) | 1x(d f) | 2x(d f)"
    assert pure[1] == pure[2]
    # blocks that the cap cuts away leave no trace
    cut = {
        repaired(("d", "a", "1:1", 1, 3), ("d", "m2", "1:1", 1, 3), ("a", "a", "0:1", 2, n))
        for n in (2, 9, 28)
    }
    assert list(map(str, cut)) == ["3x(d f a f) | 3x(d f m2 f) | 2x(a f f)"]
    # early and middle leave room for the late stage, of which two operators fit
    full = repaired(("d", "a", "1:1", 1, 20), ("d", "m2", "1:1", 1, 20), ("a", "a", "0:1", 2, 20))
    assert str(full) == "4x(d f a f) | 3x(d f m2 f) | 1x(a f)"


CHANGES = {
    operator_changes: {"op1", "op2"},
    ratio_changes: {"op1", "ratio", "repeats"},
    ffn_changes: {"ffns"},
    repeat_changes: {"repeats"},
}


def changed_fields(parent, child):
    """The fields that differ, by stage."""
    pairs = [
        (vars(one), vars(other)) for one, other in zip(parent.stages, child.stages, strict=True)
    ]
    fields = [{name for name in one if one[name] != other[name]} for one, other in pairs]
    return [names for names in fields if names]


def test_mutation_draws_the_four_factors_uniformly_and_changes_only_one(paper):
    parent = paper.find(parse_operators("2x(d f m2 f) 1x(a f m2 f m2 f) 2x(d f a f)"))
    for factor, allowed in CHANGES.items():
        for change in factor(paper, parent):
            fields = changed_fields(parent, change)
            assert set.union(*fields) <= allowed
            assert len(fields) == 1 or factor is repeat_changes
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("ratio", "op2", "ffns", "repeats"), 0)  # a field that tells the factor
    for _ in range(2000):
        names = set.union(*changed_fields(parent, paper.mutate(parent, rng)))
        names |= {"op2"} if "op1" in names else set()
        counts[next(name for name in counts if name in names)] += 1
    assert all(420 < count < 580 for count in counts.values()), counts
