"""A space with networks of its own, of the six methods of the contract alone, and as a template of
another package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from small_spaces import write

from flashnas.base import registry
from flashnas.base.documents import check_keys, parse_yaml
from flashnas.base.errors import SpaceError
from flashnas.space import TEMPLATES, SearchSpace, load_operator_space, load_space


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


class Gpt2Networks(SearchSpace[Gpt2]):
    def __init__(self, deepest=3):
        self.deepest = deepest

    def sample(self, rng):
        return Gpt2(
            int(rng.choice([64, 128, 256])),
            int(rng.integers(1, self.deepest + 1)),
            int(rng.choice([2, 4])),
        )

    def mutate(self, genotype, rng):
        while (other := self.sample(rng)) == genotype:
            pass
        return other

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


class Gpt2Space(Gpt2Networks):
    template = "gpt2"

    @classmethod
    def from_config(cls, data, *, name):
        check_keys(
            data, where="search space", required={"template": str, "deepest": int}, error=SpaceError
        )
        return cls(data["deepest"])


def test_six_methods_make_a_space():
    space = Gpt2Space()
    genotypes = list(space.enumerate())
    assert len(genotypes) == len(set(genotypes)) == space.size() == 4 * 3 * 2
    for genotype in genotypes:
        assert space.repair(genotype) == space.decode(space.encode(genotype)) == genotype
        assert space.architectures(genotype)[0].hash == genotype.notation
    assert (space.baselines(), space.cost(genotypes[0])) == ([], 0.0)


def test_default_features_are_the_encoding_as_numbers():
    space = Gpt2Space()
    assert space.features(Gpt2(128, 3, 4)).tolist() == pytest.approx([128, math.log(3), 0, 1])


def test_hash_follows_the_encoding():
    assert Gpt2Space().hash == Gpt2Space().hash != Gpt2Space(deepest=4).hash
    assert set(Gpt2Space().to_dict()) == {"template", "distributions"}


def test_values_of_every_distribution_are_listed():
    class Reals(Gpt2Space):
        kinds: dict = {}  # noqa: RUF012

        def distributions(self):
            return self.kinds

        def decode(self, params):
            return tuple(params.values())

    space = Reals()
    space.kinds = {
        "share": FloatDistribution(0.0, 0.5, step=0.25),
        "one": FloatDistribution(2.0, 2.0),
        "odd": IntDistribution(1, 5, step=2),
    }
    assert list(space.enumerate()) == [
        (share, 2.0, odd) for share in (0.0, 0.25, 0.5) for odd in (1, 3, 5)
    ]
    space.kinds = {"rate": FloatDistribution(1e-4, 1e-2, log=True)}
    assert space.size() == math.inf
    with pytest.raises(SpaceError, match="real parameter without a step and cannot be enumerated"):
        next(space.enumerate())


def test_latency_tables_refuse_it_in_one_line():
    with pytest.raises(SpaceError) as error:
        load_operator_space(Gpt2Space(), "a latency table")
    assert str(error.value) == (
        "a latency table needs a space of flashnas' operators; space 'space' (template 'gpt2')"
        " has architectures of its own"
    )
    tiny = load_space("tiny")
    assert load_operator_space(tiny, "a latency table") is tiny


@pytest.fixture
def installed(monkeypatch):
    """As if a package with this entry point were installed."""
    entry = EntryPoint("gpt2", f"{__name__}:Gpt2Space", "flashnas.spaces")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: (entry,) if group == entry.group else ()
    )
    registry.forget_plugins()
    yield
    registry.forget_plugins()


def test_another_package_adds_a_template(installed, tmp_path):
    assert list(TEMPLATES) == ["three_stage", "layerwise", "gpt2"]
    assert all(cls.template == name for name, cls in TEMPLATES.items())
    path = write(tmp_path, "template: gpt2\ndeepest: 5\n")
    assert load_space(path).deepest == 5
    with pytest.raises(SpaceError, match="needs the key 'deepest'"):
        load_space(write(tmp_path, "template: gpt2\n"))
    with pytest.raises(SpaceError, match="flashnas profile needs a space of flashnas' operators"):
        load_operator_space(write(tmp_path, "template: gpt2\ndeepest: 5\n"), "flashnas profile")


def test_a_class_without_from_config_is_not_read_from_a_file():
    data = parse_yaml("template: gpt2\n", "x.yaml")
    with pytest.raises(SpaceError, match=r"x\.yaml:1: template 'gpt2' cannot be read from a file"):
        Gpt2Networks.from_config(data, name="x")
