"""Trials as columns: which one is recommended, which are on the front, what samplers are told."""

import numpy as np
import pytest
from problems import problem_of, trials_of

from flashnas.architecture import Architecture, parse_operators
from flashnas.architecture.networks import Networks
from flashnas.families.programs import loading
from flashnas.study.loop import search
from flashnas.study.trials import ALIKE_NATS, mixer_kinds
from flashnas.trials.pareto import FULL


def made_up(values, latencies, operators=None, objectives=(FULL, "latency_ms")):
    """Networks that differ by their figures alone, of a genotype each."""
    stacks = [parse_operators(text) for text in operators or ["m2 f"] * len(values)]
    networks = Networks(stacks, np.arange(len(values)), np.full(len(values), 512))
    return trials_of(problem_of(), networks, objectives, value=values, latency_ms=latencies)


def test_the_simplest_network_within_the_tolerance_is_recommended():
    granite = "a(head_dim=64,rope_share=0)"
    operators = [
        "m2 f d f a f",  # two recurrences
        f"m2 f {granite} f",
        f"m2(groups=8) f {granite} f",
        f"m2 f {granite} f m2 f {granite} f",
        f"m2 f {granite} f",
    ]
    tied = 0.9 * ALIKE_NATS
    trials = made_up(
        [2.0, 2 + tied, 2 + tied, 2.0, 2 + 1.1 * ALIKE_NATS], [5, 4, 3, 2, 1], operators
    )
    granite, unloaded = (len(loading(trials.networks[index])) for index in (1, 2))
    assert granite == 6 > unloaded
    assert trials.best == 1, "fewer programs load 0 and 2, 3 is deeper, and 4 is worse"
    assert trials.simplest([0, 2, 3]) == 3
    assert trials.simplest([0, 2]) == 2
    assert trials.simplest([4, 0]) == 0
    trials.target = 4
    assert (trials.simplest([4, 0]), trials.simplest([0, 2])) == (4, 2)


def test_of_trained_losses_the_lowest_is_recommended_whatever_is_expected():
    trials = made_up([2.0, 2.1, 1.9], [1, 1, 1], objectives=("loss", "latency_ms"))
    assert trials.front == []
    for index, nats in enumerate([5.0002, 5.0001]):
        trials.learn(index, {"state": "complete", "loss": nats})
    assert (trials.best, trials.front) == (1, [1])
    assert list(trials.ranked) == [1, 0]


def test_the_front_is_all_that_nothing_dominates_and_the_recommended_network_may_be_off_it():
    trials = made_up(
        [2.0, 2 + 0.9 * ALIKE_NATS, 2.1, 2.5, 2.6, 2.2, 2.5],
        [8, 9, 7, 6, 6.5, 7.5, 6],
        ["m2 f m2 f", "m2 f", "m2 f m2 f", "a a m2 m2", *["m2 f m2 f"] * 2, "a m2 a m2"],
    )
    assert trials.best == 1, "the simplest one of those that are as good"
    assert trials.front == [6, 3, 2, 0], "equal ones are both on it, the most even order first"


def test_a_network_that_failed_ranks_no_more():
    trials = made_up([2.0, 2.1], [8, 7])
    trials.learn(0, {"state": "failed", "reason": "loss became nan"})
    assert (trials.best, trials.front, list(trials.ranked)) == (1, [1], [1])


def test_of_each_label_the_best_network_is_found_the_best_label_first():
    trials = made_up([2.3, 2.1, 2.2, 2.0], [1.0] * 4)
    assert trials.of_each(lambda genotype: "ab"[genotype % 2]) == {"b": 3, "a": 2}


def test_a_sampler_is_told_the_width_that_fewest_dominate():
    trials = made_up([2.0, 2.4, 2.2, 2.3], [4, 3, 2, 1])
    trials.proposed = {"one": range(2), "other": range(2, 4), "none": range(0)}
    one, other, none = trials.told(["one", "other", "none"])
    assert one.values == (2.0, 4.0), "the narrower one is dominated by the other composition"
    assert other.values == (2.2, 2.0), "both are on the front: the widest"
    assert not none.feasible


@pytest.fixture(scope="module")
def expected():
    return search(problem_of())


def test_a_trial_says_what_the_columns_do(expected):
    for index in [expected.best, *expected.front[:5]]:
        trial = expected.trial(index)
        assert trial.architecture == expected.networks[index]
        assert (trial.number, trial.state) == (index, "expected")
        for name, column in expected.columns.items():
            if not np.isnan(column[index]):
                assert getattr(trial, name) == pytest.approx(column[index], rel=1e-9), name


def test_candidates_are_the_best_and_the_best_of_each_set_of_mixers(expected):
    found = expected.candidates(60)
    assert len(found) == 60
    assert expected.ranked[0] in found
    networks = [expected.networks[index] for index in expected.ranked[:2000]]
    assert {mixer_kinds(expected.networks[index]) for index in found} == set(
        map(mixer_kinds, networks)
    )
    assert isinstance(networks[0], Architecture)
