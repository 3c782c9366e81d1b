"""Shipped spaces and a foreign one keep the contract; each way in which a space can be wrong is
named in one line."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from offenders import every
from one_line import one_line
from optuna.distributions import CategoricalDistribution, IntDistribution
from space_contract import check_space

from flashnas.base.shipped import shipped_names
from flashnas.space import TEMPLATES, SearchSpace

EXAMPLE = Path(__file__).parents[2] / "examples/flashnas-gpt2-space"


@dataclass(frozen=True)
class Net:
    """A network of no class of flashnas; its own genotype."""

    layers: int
    ratio: int

    @property
    def notation(self):
        return f"layers={self.layers} ratio={self.ratio}"

    @property
    def hash(self):
        return f"{self.layers}-{self.ratio}"

    @property
    def params(self):
        return self.layers * self.ratio * 1000

    def to_dict(self):
        return dataclasses.asdict(self)


class Nets(SearchSpace[Net]):
    """`layers` in 1..30, `ratio` one of four."""

    name = "nets"
    ratios = (1, 2, 4, 8)

    def sample(self, rng):
        return Net(int(rng.integers(1, 31)), int(rng.choice(self.ratios)))

    def mutate(self, genotype, rng):
        if rng.random() < 0.5:
            return Net(
                genotype.layers,
                int(rng.choice([ratio for ratio in self.ratios if ratio != genotype.ratio])),
            )
        return Net(genotype.layers % 30 + 1, genotype.ratio)

    def encode(self, genotype):
        return dataclasses.asdict(genotype)

    def decode(self, params):
        return Net(**params)

    def distributions(self):
        return {"layers": IntDistribution(1, 30), "ratio": CategoricalDistribution(self.ratios)}

    def architectures(self, genotype):
        return [genotype]


@pytest.mark.parametrize(
    "space",
    [*shipped_names("search_spaces", ".yaml"), Nets()],
    ids=lambda space: space if isinstance(space, str) else "foreign",
)
def test_spaces_keep_the_contract(space):
    check_space(space)


def test_the_example_keeps_the_contract(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from flashnas_gpt2_space.space import Gpt2Space

    check_space(Gpt2Space({"width": [32, 64], "layers": [1, 2], "heads": [2], "mlp_ratio": [2, 4]}))
    monkeypatch.setitem(TEMPLATES.shipped, "gpt2", "flashnas_gpt2_space.space:Gpt2Space")
    check_space(EXAMPLE / "gpt2.yaml")


class Unhashable(Net):
    __hash__ = None


class NoNotation(Net):
    notation = ""


class NotJson(Net):
    def to_dict(self):
        return {"set": {1}}


def variant(**attributes):
    return type("Variant", (Nets,), attributes)()


def after(method, change):
    """The method of Nets with its result changed."""
    return lambda self, *arguments: change(getattr(Nets, method)(self, *arguments))


@every(
    case=[
        (
            variant(sample=lambda self, rng: Nets.sample(self, np.random.default_rng())),
            "the same seed must give the same samples and mutants",
        ),
        (
            variant(
                sample=lambda self, rng: Net(3, 4), mutate=lambda self, genotype, rng: Net(3, 8)
            ),
            "another seed must give other samples",
        ),
        (
            variant(mutate=lambda self, genotype, rng: genotype),
            "a mutant must differ from its parent",
        ),
        (
            variant(sample=after("sample", lambda net: Unhashable(net.layers, net.ratio))),
            "a genotype must be hashable",
        ),
        (
            variant(repair=lambda self, genotype: Net(1, 1)),
            "a genotype must be its own repaired form",
        ),
        (
            variant(encode=lambda self, genotype: {"layers": genotype.layers}),
            "encode must give the parameters ['layers', 'ratio']; got ['layers']",
        ),
        (
            variant(encode=after("encode", lambda params: {**params, "layers": 31})),
            "parameter 'layers' must be inside IntDistribution(high=30, log=False, low=1, step=1);"
            " got 31",
        ),
        (
            variant(encode=after("encode", lambda params: {**params, "ratio": 3})),
            "parameter 'ratio' must be inside",
        ),
        (
            variant(decode=after("decode", lambda net: Net(net.layers, 1))),
            "decode must give back what was encoded",
        ),
        (
            variant(
                repair=lambda self, net: net if net.layers < 31 else Net(30, net.ratio),
                decode=lambda self, params: Net(**params) if params["layers"] != 7 else Net(40, 1),
                sample=lambda self, rng: Net(int(rng.choice([2, 4])), 1),
                mutate=lambda self, net, rng: Net(3, 1),
            ),
            "decode must give a canonical genotype",
        ),
        (
            variant(architectures=lambda self, genotype: []),
            "architectures must give at least one network; got none",
        ),
        (
            variant(architectures=lambda self, genotype: [genotype, genotype]),
            "the networks of one genotype must differ",
        ),
        (
            variant(architectures=lambda self, genotype: [NoNotation(1, 1)]),
            "notation of a network must be one line of text",
        ),
        (
            variant(architectures=lambda self, genotype: [NotJson(1, 1)]),
            "to_dict of layers=1 ratio=1 must be JSON-ready",
        ),
        (
            variant(architectures=lambda self, genotype: [Net(genotype.layers, 1)]),
            "build the same networks and must be equal",
        ),
        (
            variant(architectures=lambda self, genotype: [genotype, Net(99, 99)]),
            "networks must be given from the largest to the smallest",
        ),
        (
            variant(baselines=lambda self: [("one", [Net(1, 1)]), ("one", [Net(2, 1)])]),
            "labels of baselines must differ; got ['one', 'one']",
        ),
        (
            variant(baselines=lambda self: [("none", [])]),
            "baseline 'none' needs at least one network",
        ),
        (variant(size=lambda self: 3), "size must be at least"),
        (
            variant(enumerate=lambda self: iter([Net(1, 1), Net(1, 1)])),
            "enumerate must give every genotype once",
        ),
        (variant(enumerate=lambda self: iter([Net(1, 1)])), "enumerate must give all genotypes"),
        (
            variant(features=lambda self, genotype: np.array([np.nan, 1.0])),
            "finite numbers in float64; got",
        ),
        (variant(to_dict=lambda self: {"space": self}), "space 'nets': to_dict must be JSON-ready"),
    ]
)
def test_a_broken_space_is_refused(case):
    space, words = case
    assert words in one_line(AssertionError, check_space, space)
