"""The sampler keeps the contract of flashnas, learns, and names wrong options."""

import pytest
from flashnas_sampler.annealing import Annealing

from flashnas.base.errors import ConfigError
from flashnas.search import ALGORITHMS, make_algorithm
from flashnas.testing import check_beats_random, check_sampler
from flashnas.testing.sampler import World

OPTIONS = {"initial": 4}


def test_contract():
    assert ALGORITHMS["annealing"] is Annealing
    check_sampler("annealing", OPTIONS)


def test_it_beats_random():
    check_beats_random("annealing", OPTIONS, seeds=15)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": float("nan")}, {"cooling": 1.5},
                                     {"initial": 0}, {"heat": 3}])
def test_wrong_options_are_one_line(options):
    world = World("random")
    with pytest.raises(ConfigError, match=f"annealing.*{next(iter(options))}"):
        make_algorithm("annealing", space=world.space, seed=0, latency_of=world.latency_of, **options)
