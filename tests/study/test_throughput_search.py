"""Searches for the largest batch that fits: every network has a batch of its own."""

import pytest

import flashnas as fn
from flashnas.latency.prediction import LatencyModel

WORKLOAD = "throughput-32k"


def loss(architecture):
    return 3 + 6 / len(architecture.operators) + 400 / architecture.hidden


def test_a_search_finds_networks_at_the_largest_batch(tmp_path):
    run = fn.search(
        space="tiny",
        table="h100_sxm",
        workload=WORKLOAD,
        budgets={"throughput_tok_s": 40_000},
        objectives=["loss", "throughput_tok_s"],
        trials=4,
        cycle_size=2,
        evaluator=loss,
        sampler="random",
        baselines=False,
        measure=False,
        workers=1,
        out=tmp_path / "run",
    )
    assert len(run.trials) == 4
    assert run.trials["throughput_tok_s"].min() >= 40_000
    estimate = LatencyModel("h100_sxm", WORKLOAD).estimate(run.front[0].architecture)
    assert estimate.batch > 1
    assert run.front[0].figures["throughput_tok_s"] == pytest.approx(estimate.throughput_tok_s)
