"""The layer-wise template against itertools.product."""

import itertools
import re

import numpy as np
import pytest
from cases import data_of
from space_contract import check_space

from flashnas.architecture import parse_operators
from flashnas.base.documents import parse_yaml
from flashnas.space import load_space
from flashnas.space.layerwise import LayerwiseGenotype, LayerwiseSpace

SMALL = data_of("space/small")["layerwise"]


@pytest.fixture(params=list(SMALL))
def case(request):
    depth, choices, required = SMALL[request.param].values()
    written = [re.sub(r"\b(d|a|m2)\b", r"\1(head_dim=16)", choice) for choice in choices]
    data = parse_yaml(
        f"template: layerwise\nwidths: [64]\nlayers: {{depth: {depth}, choices: {written}"
        + (f", require: {required}}}" if required else "}")
    )
    space = LayerwiseSpace.from_config(data, name="small")
    expected = {
        tuple(" ".join(layers).split())
        for number in range(depth[0], depth[1] + 1)
        for layers in itertools.product(choices, repeat=number)
        if set(required) <= set(" ".join(layers).split())
    }
    return space, expected


def kinds(operators):
    return tuple(spec.kind for spec in operators)


def test_enumeration_is_the_product(case):
    space, expected = case
    genotypes = list(space.enumerate())
    lists = [kinds(space.operators(genotype)) for genotype in genotypes]
    assert len(lists) == len(set(lists)) == len(set(genotypes)) <= space.size()
    assert set(lists) == expected


def test_samples_mutants_and_decoded_parameters_keep_the_contract_and_mutants_reach_everything(
    case,
):
    space, expected = case
    check_space(space)
    rng = np.random.default_rng(0)
    current, reached = space.sample(rng), set()
    for _ in range(1500):
        current = space.mutate(current, rng)
        reached.add(kinds(space.operators(current)))
        if reached == expected:
            break
    assert reached == expected


def test_repair_brings_foreign_depths_inside(case):
    space, expected = case
    for layers in (0, 1, 7):
        repaired = space.repair(LayerwiseGenotype(space.names[:1] * layers))
        assert kinds(space.operators(repaired)) in expected


def test_a_required_operator_takes_the_place_of_the_last_layers(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(
        "template: layerwise\nwidths: [256]\n"
        "layers: {depth: [4, 16], require: [m2, a], choices: [m2 f, a(head_dim=64) f]}\n"
    )
    space = load_space(path)
    mamba, attention = space.names
    assert space.repair(LayerwiseGenotype((mamba,) * 5)).layers == (mamba,) * 4 + (attention,)
    assert space.repair(LayerwiseGenotype((attention,))).layers == (attention,) * 3 + (mamba,)
    assert space.to_dict()["layers"]["require"] == ["m2", "a"]
    assert "require" not in load_space("layerwise").to_dict()["layers"]


def test_find_refuses_lists_outside():
    space = load_space("layerwise")
    assert space.find(parse_operators("6x(d f)")) is not None
    for text in ("5x(d f)", "16x(d f)", "6x(d f) d", "6x(d)", "f 6x(d f)"):
        assert space.find(parse_operators(text)) is None


def test_baselines_have_what_every_network_of_the_space_needs(case):
    space, _ = case
    for _, operators in space.pure_models():
        assert set(space.require) <= {spec.kind for spec in operators}
    assert bool(space.pure_models()) == (len(space.require) < 2)
