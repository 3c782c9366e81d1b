"""Metrics of many networks as arrays are those of each one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import TINY

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import BudgetError
from flashnas.latency import fitting
from flashnas.latency.fitting import Fitter, TableCosts, excess
from flashnas.latency.metrics import ENDS, SIZES, STATED, Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.observations.correction import TimesCorrection
from flashnas.observations.times import ObservedTime
from flashnas.space import load_space

TEXTS = (
    "a",
    "f",
    "m2",
    "d",
    "conv",
    "swa(window=512)",
    "moe(experts=32,active=4,intermediate=512)",
)
MODELS = {
    name: LatencyModel("h100_sxm", load)
    for name, load in {
        "decode": "decode-8k",
        "chat": "chat",
        "prompt": "prefill-2k",
        "max": "batch=max,prompt=4096,generated=64",
        "fp8": "batch=8,prompt=64,generated=32,dtype=fp8",
    }.items()
}
SEEN = Architecture.parse("2048: 6x(d f m2 f)")
MODELS["corrected"] = MODELS["chat"].corrected_by(
    TimesCorrection(
        MODELS["chat"],
        [
            ObservedTime(
                network=network,
                workload=MODELS["chat"].workload,
                program="program",
                noise=0.01,
                milliseconds={"latency_ms": ms},
            )
            for network, ms in ((SEEN, 900.0), (Architecture.parse("1024: 20x(a f)"), 700.0))
        ],
    )
)
NETWORKS = st.lists(
    st.builds(
        Architecture,
        hidden=st.sampled_from((1024, 2048)),
        operators=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8).map(
            lambda texts: parse_operators(" ".join(texts))
        ),
        vocab=st.sampled_from((32_000, 131_072)),
        tied=st.booleans(),
        meta_tokens=st.sampled_from((0, 128)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=12)
@given(networks=NETWORKS)
def test_columns_are_what_each_estimate_says(name, networks):
    model = MODELS[name]
    columns, estimates = model.columns(networks), [model.estimate(each) for each in networks]
    assert list(columns) == list(STATED)
    for metric, column in columns.items():
        one_by_one = [estimate.metric(metric) for estimate in estimates]
        np.testing.assert_allclose(column, one_by_one, rtol=1e-12)
        np.testing.assert_array_equal(model.columns(networks, [metric])[metric], column)
        assert model.columns([])[metric].shape == (0,)
    bounds = [estimate.bounds for estimate in estimates]
    for name, column in model.columns(networks, ENDS).items():
        metric, end = ENDS[name]
        np.testing.assert_allclose(column, [each[metric][end] for each in bounds])


def test_a_network_without_room_is_within_no_budget_on_time(tiny_table, monkeypatch):
    table = dataclasses.replace(tiny_table, device=dataclasses.replace(TINY, memory_bytes=10**6))
    model = LatencyModel(table, "batch=max,prompt=8,generated=2")
    small, large = (Architecture.parse(f"{text}: f") for text in ("32(vocab=64)", "2048(vocab=64)"))
    columns = model.columns([large, small])
    for metric, (of_large, of_small) in columns.items():
        assert 0 < of_small < np.inf
        if metric not in SIZES:
            assert of_large == (0 if metric == "throughput_tok_s" else np.inf)
    assert columns["memory_gb"][0] > 1e-3 >= columns["memory_gb"][1]
    with pytest.raises(BudgetError, match="does not fit"):
        model.estimate(large)
    costs = TableCosts(model)
    assert costs.columns([large, small], ["latency_ms"])["latency_ms"][0] == np.inf
    for budget in (Budget("latency_ms", 1e9), Budget("throughput_tok_s", 1e-9)):
        fitter = Fitter(load_space("tiny"), costs, [budget])
        assert fitter.within([large, small]).tolist() == [False, True]
    budgets = [Budget("memory_gb", 1e-3), Budget("latency_ms", 1e9)]
    monkeypatch.setattr(fitting, "CLIMBED", 100)
    with pytest.raises(BudgetError, match=r"misses memory_gb [\d.]+ where .* factor of [\d.]+: "):
        Fitter(load_space("nemotron_flash"), costs, budgets).feasible(0)


@pytest.mark.parametrize("name", ["decode", "chat", "max", "corrected"])
def test_a_second_turn_reads_what_no_page_holds(name):
    """No faster than the tokens that are left alone, no slower than all of them; and as fast as all where
    the pages hold nothing."""
    model = MODELS[name]
    context, new = model.workload.context, model.workload.turn2_tokens
    networks = [
        Architecture.parse(f"2048: {text}") for text in ("6x(gd f) 2x(a f)", "8x(a f)", "8x(gd f)")
    ]
    names = ("turn2_ttft_ms", "block_tokens")
    second, blocks = (model.columns(networks, names)[each] for each in names)
    assert blocks[2] == 0 < blocks[1] == 16 < blocks[0]

    def reading(network, tokens):
        request = {"batch": model.batch(network), "prompt_tokens": tokens, "generated_tokens": 0}
        whole = model.at(dataclasses.replace(model.workload, **request))
        return whole.columns([network], ["ttft_ms"])["ttft_ms"][0]

    for network, ms, block in zip(networks, second, blocks, strict=True):
        held = context // block * block if block else 0
        assert reading(network, context + new - int(held)) <= ms * (1 + 1e-9)
        assert ms <= reading(network, context + new) * (1 + 1e-9)
    assert second[2] == pytest.approx(reading(networks[2], context + new))


def test_a_budget_on_sequences_is_a_minimum_and_misses_by_a_finite_factor():
    budget = Budget("sequences", 64)
    assert budget.holds(np.array([63, 64, 65])).tolist() == [False, True, True]
    assert excess(np.array([0, 32, 64, 128]), budget).tolist() == [128, 2, 1, 0.5]
