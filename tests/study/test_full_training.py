"""The full training that is planned: of so many tokens, or of as many as some hours bring."""

import dataclasses

import pytest
from problems import problem_of

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.latency.table import LatencyTable
from flashnas.study import loop as room
from flashnas.study.load import load_problem
from flashnas.study.scorer import SPARSE_RATE, FullTraining

DENSE, WIDE = "1024: 12x(a f)", "2048(meta=16): 4x(swa f m2 f d f)"
SPARSE = "1024: 12x(a moe(experts=64,active=8))"


def test_hours_bring_each_network_its_own_tokens():
    networks = [Architecture.parse(text) for text in (DENSE, WIDE, SPARSE)]
    hours = FullTraining(hours=100.0)
    tokens = hours.tokens_of(networks)
    for network, number in zip(networks, tokens, strict=True):
        flops = 3 * network.flops_per_token(4096) * number
        rate = SPARSE_RATE if network.active_params < network.params else 1.0
        assert flops == pytest.approx(100 * 3600 * 0.4 * 989e12 * rate)
        assert FullTraining(tokens=number).hours_of(network) == pytest.approx(100.0)
        alone = Networks.of([network])
        assert hours.tokens_of(alone) == pytest.approx([number])
        assert alone.flops_per_token(4096) == pytest.approx([network.flops_per_token(4096)])
    slower = FullTraining(hours=100.0, utilisation=0.2).on(LatencyTable.load("a100_sxm").device)
    assert slower.device == "a100_sxm"
    assert slower.tokens_of(networks) == pytest.approx(tokens / 2 * 312 / 989)
    longer = dataclasses.replace(hours, context=32768).tokens_of(networks)
    assert longer[0] < 0.8 * tokens[0]


def test_each_network_is_expected_at_its_own_tokens():
    problem = problem_of("granite", 60_000.0, train_hours=300.0)
    trials = room.search(problem)
    network, scorer = trials.networks[trials.best], problem.scorer
    tokens = scorer.tokens_of([network])[0]
    alone = dataclasses.replace(scorer, training=FullTraining(tokens=tokens))
    assert scorer.values([network]) == pytest.approx(alone.values([network]))
    assert scorer.figures(network) == alone.figures(network)
    assert scorer.digest != alone.digest
    assert problem.training.hours_of(network) == 300.0


def test_size_is_traded_against_tokens():
    """Fewer hours: a smaller network, although larger ones are within the budget."""
    sizes = []
    for hours in (30.0, 300.0, 3_000.0):
        trials = room.search(problem_of("granite", 60_000.0, train_hours=hours))
        sizes.append(trials.networks[trials.best].params)
    largest = trials.columns["params"].max()
    assert sizes[0] < 0.6 * sizes[1] < 0.6 * sizes[2] <= 0.6 * largest


def test_a_length_of_hours_needs_losses_that_are_expected():
    asked = problem_of("granite", 60_000.0, train_hours=300.0).config
    with pytest.raises(Exception, match=r"^search\.train_hours needs the losses to expect"):
        load_problem(asked, evaluator=lambda network: 1.0)
