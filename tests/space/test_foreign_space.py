"""A space with networks of its own, of the six methods of the contract alone. A package that adds one
as a template: examples/flashnas-gpt2-space.
"""

from __future__ import annotations

import math

import pytest
from foreign_space import Gpt2, Gpt2Space
from one_line import one_line
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flashnas.base.documents import parse_yaml
from flashnas.base.errors import SpaceError
from flashnas.space import load_operator_space, load_space


class Template(Gpt2Space):
    template = "gpt2"


def test_six_methods_make_a_space():
    space = Gpt2Space()
    genotypes = list(space.enumerate())
    assert len(genotypes) == len(set(genotypes)) == space.size() == 3 * 4 * 3 * 2
    for genotype in genotypes:
        assert space.repair(genotype) == space.decode(space.encode(genotype)) == genotype
        assert space.architectures(genotype)[0].hash == genotype.hash
    assert space.baselines() == []


def test_hash_and_features_follow_the_encoding(monkeypatch):
    assert Gpt2Space().hash == Gpt2Space().hash
    assert set(Template().to_dict()) == {"template", "distributions"}
    space, before = Gpt2Space(), Gpt2Space().hash
    kinds = {
        "width": IntDistribution(64, 256, step=64),
        "layers": IntDistribution(1, 3, log=True),
        "heads": CategoricalDistribution([2, 4]),
        "ratio": CategoricalDistribution([2, 4]),
    }
    monkeypatch.setattr(space, "distributions", lambda: kinds)
    assert space.hash != before
    # features are the encoding as numbers
    assert space.features(Gpt2(128, 3, 2, 4)).tolist() == pytest.approx(
        [128, math.log(3), 1, 0, 0, 1]
    )


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


def test_what_needs_operators_or_a_file_refuses_it_in_one_line():
    assert one_line(SpaceError, load_operator_space, Template(), "a latency table") == (
        "a latency table needs a space of flashnas' operators; space 'gpt2' (template 'gpt2')"
        " has architectures of its own"
    )
    tiny = load_space("tiny")
    assert load_operator_space(tiny, "a latency table") is tiny
    data = parse_yaml("template: gpt2\n", "x.yaml")
    with pytest.raises(SpaceError, match=r"x\.yaml:1: template 'gpt2' cannot be read from a file"):
        Template.from_config(data, name="x")
