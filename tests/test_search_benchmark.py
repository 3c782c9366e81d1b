"""benchmarks/search.py: tokens are counted exactly, the rows of the bench are a space, and our
samplers run on it.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from search_methods import METHODS, Meter, Spent, ours
from search_problems import RUNGS, Rows, make_problem
from search_report import regrets, tokens_to


@pytest.fixture(scope="module")
def rows():
    return make_problem("rows", 0)


def test_a_paused_training_costs_what_is_left_of_it(rows):
    meter = Meter(rows, 0, 2)
    first, second, third = list(rows.space.enumerate())[:3]
    meter.train(first, 3)
    assert (meter.tokens, meter.finished) == (3, [])
    assert meter.train(first) == rows.truth([first])[0]
    meter.train(first)
    assert (meter.tokens, meter.finished) == (RUNGS, [(RUNGS, first)])
    meter.train(second, 2)
    with pytest.raises(Spent):
        meter.train(third, 3)
    assert meter.tokens == RUNGS + 2


@pytest.mark.parametrize(
    "sampler",
    [name for name, method in METHODS.items() if method.ours and not method.needs],
)
def test_our_samplers_spend_all_tokens_on_distinct_rows_within_the_budget(rows, sampler):
    meter = Meter(rows, 1, 12)
    with pytest.raises(Spent):
        ours(sampler)(meter)
    trained = [genotype for _, genotype in meter.finished]
    assert len(set(trained)) == len(trained) == 12
    assert all(meter.latency_ms(genotype) <= Rows.budget_ms for genotype in trained)


def test_regret_is_of_the_true_front_and_tokens_to_a_target_are_a_share():
    lines = [
        {"problem": "rows", "method": "front", "seed": 0, "volumes": [2.0]},
        *(
            {"problem": "rows", "method": "random", "seed": seed, "volumes": [0.0, 1.0, 1.0, 1.5]}
            for seed in range(3)
        ),
    ]
    found = regrets(lines, "rows")["random"]
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.5, 0.25]] * 3)
    assert tokens_to(found, 0.5) == 0.5
    assert tokens_to(found, 0.1) is None
