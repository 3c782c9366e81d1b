"""Bayesian search with what is known before any training: it prefers what is expected to be good
and cheap.
"""

import numpy as np
import pytest
from bit_space import Bits, BitSpace

from flashnas.algorithms import ALGORITHMS, Trial, make_algorithm
from flashnas.algorithms.algorithm import Prior

LENGTH = 12


def bits_of(network):
    return [int(spec.kind == "a") for spec in network.operators]


def expected(networks):
    """Attention in the first half is good."""
    return np.array([5.0 - 0.2 * sum(bits_of(network)[: LENGTH // 2]) for network in networks])


def no_steps(networks):
    return np.full(len(networks), 0.02)


def prior(value_of=expected, moves_of=no_steps, cost_of=lambda network: 1.0, best=()):
    return Prior(value_of=value_of, moves_of=moves_of, cost_of=cost_of, best=best)


def flat(genotype):
    """One latency for all, so that the loss alone counts."""
    return BitSpace(LENGTH).fit_width(genotype)[0], 1.0


def searched(
    prior=None,
    *,
    cycles=3,
    loss=lambda genotype: 5.0,
    fit_width=flat,
    seed=0,
    initial=6,
    sampler="bayes",
):
    space = BitSpace(LENGTH)
    options = {"initial": initial, "pool": 64} if sampler == "bayes" else {}
    algorithm = make_algorithm(sampler, space=space, seed=seed, fit_width=fit_width, **options)
    if prior is not None:
        algorithm.use_prior(prior)
    batches = []
    for _ in range(cycles):
        batches.append(algorithm.ask(6))
        algorithm.tell([Trial(genotype=g, values=(loss(g), fit_width(g)[1])) for g in batches[-1]])
    return batches


def good(genotypes):
    return float(np.mean([sum(genotype.bits[: LENGTH // 2]) for genotype in genotypes]))


def true_loss(genotype):
    return 5.0 - 0.2 * sum(genotype.bits[: LENGTH // 2])


def test_at_equal_cost_it_prefers_what_is_expected_to_be_good():
    told = searched(prior(), cycles=2, loss=true_loss)
    assert good(told[1]) > 5
    assert good(told[1]) > good(searched(cycles=2, loss=true_loss)[1]) + 1


def test_the_model_learns_the_rest_alone():
    """Trainings show that the last bit counts most, which nothing foretold."""

    def loss(genotype):
        return true_loss(genotype) - 1.5 * genotype.bits[-1]

    last = searched(prior(), cycles=4, loss=loss)[-1]
    assert np.mean([genotype.bits[-1] for genotype in last]) > 0.8
    assert good(last) > 4


def test_gains_are_divided_by_cost():
    """The first bit of the second half makes a training dear, and changes nothing else."""

    def dear(network):
        return 50.0 if bits_of(network)[LENGTH // 2] else 1.0

    asked = searched(prior(cost_of=dear), cycles=3, loss=true_loss)
    even = searched(prior(), cycles=3, loss=true_loss)
    share, usual = (
        np.mean([g.bits[LENGTH // 2] for batch in batches[1:] for g in batch])
        for batches in (asked, even)
    )
    assert share < 0.2 < usual


def test_where_more_is_to_be_learnt_a_training_is_worth_more():
    def silent(networks):
        return np.array([0.5 if bits_of(network)[-1] else 0.001 for network in networks])

    asked = searched(
        prior(moves_of=silent, value_of=lambda networks: np.full(len(networks), 5.0)), cycles=2
    )
    assert np.mean([genotype.bits[-1] for genotype in asked[1]]) > 0.8


def test_the_most_promising_come_first_in_their_order():
    best = [Bits((1, 0) * (LENGTH // 2)), Bits((1,) * LENGTH), Bits((0, 1) * (LENGTH // 2))]
    first = searched(prior(best=best), cycles=1)[0]
    assert first[:3] == best
    assert len(set(first)) == 6


@pytest.mark.parametrize("fit_width", [flat, BitSpace(LENGTH).fit_width], ids=["flat", "latencies"])
def test_a_prior_that_knows_nothing_changes_nothing(fit_width):
    def nothing(networks):
        return np.zeros(len(networks))

    known = prior(value_of=nothing, moves_of=nothing)
    assert searched(known, loss=true_loss, fit_width=fit_width) == searched(
        loss=true_loss, fit_width=fit_width
    )


@pytest.mark.parametrize("sampler", [name for name in ALGORITHMS if name != "bayes"])
def test_other_algorithms_pass_it_over(sampler):
    known = prior(best=[Bits((1,) * LENGTH)])
    assert searched(known, sampler=sampler, cycles=2) == searched(sampler=sampler, cycles=2)
