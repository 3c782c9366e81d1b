"""The sampler of the example keeps the contract and learns."""

from pathlib import Path

import pytest
from sampler_contract import check_beats_random, check_sampler

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_passes_and_learns(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "flashnas-sampler")
    from flashnas_sampler.annealing import Annealing

    check_sampler(Annealing, {"initial": 4})
    check_beats_random(Annealing, {"initial": 4}, seeds=15)


def test_a_sampler_that_does_not_learn_does_not_beat_random():
    with pytest.raises(AssertionError, match=r"the median of 7 seeds must be below \d\.\d+ nats"):
        check_beats_random("random")
