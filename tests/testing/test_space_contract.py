"""Shipped spaces, a foreign one and that of the example keep the contract."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from space_contract import check_space

from flashnas.base.registry import shipped_names
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
