"""A space with networks of its own, of the six methods of the contract alone. A package that adds one
as a template: examples/flashnas-gpt2-space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from one_line import one_line
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flashnas.base.documents import parse_yaml
from flashnas.base.errors import SpaceError
from flashnas.space import SearchSpace, load_operator_space, load_space


@dataclass(frozen=True)
class Gpt2:
    """A network: also its own genotype."""

    width: int
    layers: int
    ratio: int

    @property
    def notation(self):
        return f"gpt2 width={self.width} layers={self.layers} ratio={self.ratio}"

    hash = notation

    def to_dict(self):
        return vars(self)


class Gpt2Space(SearchSpace[Gpt2]):
    template = "gpt2"

    def __init__(self, deepest=3):
        self.deepest = deepest

    def sample(self, rng):
        return Gpt2(64, int(rng.integers(1, self.deepest + 1)), 2)

    def mutate(self, genotype, rng):
        return Gpt2(64, genotype.layers % self.deepest + 1, genotype.ratio)

    def encode(self, genotype):
        return vars(genotype)

    def decode(self, params):
        return Gpt2(**params)

    def distributions(self):
        return {
            "width": IntDistribution(64, 256, step=64),
            "layers": IntDistribution(1, self.deepest, log=True),
            "ratio": CategoricalDistribution([2, 4]),
        }

    def architectures(self, genotype):
        return [genotype]


def test_six_methods_make_a_space():
    space = Gpt2Space()
    genotypes = list(space.enumerate())
    assert len(genotypes) == len(set(genotypes)) == space.size() == 4 * 3 * 2
    for genotype in genotypes:
        assert space.repair(genotype) == space.decode(space.encode(genotype)) == genotype
        assert space.architectures(genotype)[0].hash == genotype.notation
    assert (space.baselines(), space.cost(genotypes[0])) == ([], 0.0)
    # features are the encoding as numbers
    assert space.features(Gpt2(128, 3, 4)).tolist() == pytest.approx([128, math.log(3), 0, 1])


def test_hash_follows_the_encoding():
    assert Gpt2Space().hash == Gpt2Space().hash != Gpt2Space(deepest=4).hash
    assert set(Gpt2Space().to_dict()) == {"template", "distributions"}


def test_values_of_every_distribution_are_listed(monkeypatch):
    space = Gpt2Space()
    monkeypatch.setattr(space, "decode", lambda params: tuple(params.values()))
    kinds = {
        "share": FloatDistribution(0.0, 0.5, step=0.25),
        "one": FloatDistribution(2.0, 2.0),
        "odd": IntDistribution(1, 5, step=2),
    }
    monkeypatch.setattr(space, "distributions", lambda: kinds)
    assert list(space.enumerate()) == [
        (share, 2.0, odd) for share in (0.0, 0.25, 0.5) for odd in (1, 3, 5)
    ]
    kinds["rate"] = FloatDistribution(1e-4, 1e-2, log=True)
    assert space.size() == math.inf
    line = one_line(SpaceError, lambda: next(space.enumerate()))
    assert "real parameter without a step and cannot be enumerated" in line


def test_latency_tables_refuse_it_in_one_line():
    assert one_line(SpaceError, load_operator_space, Gpt2Space(), "a latency table") == (
        "a latency table needs a space of flashnas' operators; space 'space' (template 'gpt2')"
        " has architectures of its own"
    )
    tiny = load_space("tiny")
    assert load_operator_space(tiny, "a latency table") is tiny


def test_a_class_without_from_config_is_not_read_from_a_file():
    data = parse_yaml("template: gpt2\n", "x.yaml")
    with pytest.raises(SpaceError, match=r"x\.yaml:1: template 'gpt2' cannot be read from a file"):
        Gpt2Space.from_config(data, name="x")
