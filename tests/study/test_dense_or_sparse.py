"""Both options of an answer, dense and sparse, and where the choice between them turns."""

import dataclasses
import itertools

import pytest
from problems import problem_of, trials_of, with_all_batches

from flashnas.architecture import Architecture
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.observations.correction import corrected
from flashnas.study.answer import (
    BATCHES,
    MEMORIES_GB,
    dense_or_sparse,
    within_at,
)
from flashnas.study.limits import bounds_of
from flashnas.study.scorer import SPARSE_RATE

DENSE = ["1024: 8x(a f)", "2048: 12x(a f)", "2560: 16x(a f)"]
SPARSE = [
    "1024: 8x(a moe(experts=64,active=8))",
    "1536: 10x(a moe(experts=64,active=8))",
    "2048: 12x(a moe(experts=64,active=8))",
]


def scored(notations, problem):
    return trials_of(problem, [Architecture.parse(text) for text in notations])


@pytest.fixture(scope="module", autouse=True)
def all_batches(quick_searches):
    with pytest.MonkeyPatch.context() as patch:
        with_all_batches(patch)
        yield


@pytest.fixture(scope="module")
def problem():
    asked = {"workload": "decode-8k", "calibration": "engine", "experts": "any"}
    return problem_of("served", budget_ms=20_000.0, params="..64B", **asked)


@pytest.fixture(scope="module")
def found(problem):
    return dense_or_sparse(problem, scored(DENSE + SPARSE, problem))


def lowest(problem, notations, costs, memory_gb):
    """The best of some networks within limits, by hand; None where none is."""
    within = [
        network
        for network in map(Architecture.parse, notations)
        if costs.metrics(network)["memory_gb"] <= memory_gb
        and costs.metrics(network)["latency_ms"] <= 20_000
    ]
    return min(within, key=lambda network: problem.scorer.values([network])[0], default=None)


def better(problem, costs, memory_gb):
    """Which sort is, by hand; None where only one is there."""
    dense, sparse = (lowest(problem, sort, costs, memory_gb) for sort in (DENSE, SPARSE))
    if dense is None or sparse is None:
        return None
    difference, _ = problem.scorer.posterior([sparse, dense]).difference(0, 1)
    return "sparse" if difference < 0 else "dense"


def test_the_same_sort_is_better_down_to_a_memory(problem, found):
    # of an H100, less a tenth
    assert found["memory_gb"] == pytest.approx(72.0, rel=0.1)
    chosen = "sparse" if found["difference"] < 0 else "dense"
    below = max((gb for gb in MEMORIES_GB if gb < found["from_gb"]), default=0)
    limits = [found["memory_gb"], *(gb for gb in MEMORIES_GB if below <= gb < found["memory_gb"])]
    sorts = {gb: better(problem, problem.costs, gb) for gb in limits}
    assert [gb for gb in limits if sorts[gb] != chosen] == [below] * bool(below)
    assert found["sd"] > 0


def test_the_same_sort_is_better_up_to_a_batch(problem, found):
    chosen = "sparse" if found["difference"] < 0 else "dense"
    model = problem.model
    sorts = {}
    for batch in BATCHES:
        costs = TableCosts(model.at(dataclasses.replace(model.workload, batch=batch)))
        sorts[batch] = better(problem, costs, found["memory_gb"])
    agree = list(itertools.takewhile(lambda batch: sorts[batch] == chosen, BATCHES))
    assert found["to_batch"] == agree[-1]
    assert 1 < len(agree) < len(BATCHES), "the choice turns"


def test_each_option_states_what_it_costs(problem, found):
    for sort, notations in (("dense", DENSE), ("sparse", SPARSE)):
        side = found[sort]
        network = Architecture.parse(side["notation"])
        assert network == lowest(problem, notations, problem.costs, found["memory_gb"])
        assert (side["params"], side["active_params"]) == (network.params, network.active_params)
        assert (side["active_params"] < side["params"]) == (sort == "sparse")
        assert side["train_hours"] == problem.training.hours_of(network)
    # of equal FLOPs the sparse training takes longer
    sparse = Architecture.parse(SPARSE[0])
    dense_rate = problem.training.hours_of(sparse) * SPARSE_RATE
    assert SPARSE_RATE < 1
    assert dense_rate == pytest.approx(
        3 * sparse.flops_per_token(4096) * 1e11 / (0.4 * 989e12) / 3600
    )


@pytest.mark.parametrize("notations", [DENSE, SPARSE])
def test_nothing_is_said_where_all_are_of_one_sort(problem, notations):
    assert dense_or_sparse(problem, scored(notations, problem)) is None


def test_the_memory_of_the_device_less_a_tenth_bounds_a_search(problem):
    memory = Budget("memory_gb", 0.9 * problem.model.table.device.memory_bytes / 1e9)
    assert problem.fitter.budgets == [Budget("latency_ms", 20_000.0), memory]
    asked = dataclasses.replace(problem.config, budgets={"memory_gb": 4.0})
    assert bounds_of(asked, problem.costs) == (Budget("memory_gb", 4.0),)
    large = Architecture.parse("2048: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert problem.costs.metrics(large)["memory_gb"] > memory.limit
    assert Fitter(problem.space, problem.costs, []).within([large])[0]
    assert not Fitter(problem.space, problem.costs, [memory]).within([large])[0]


def costs_by_times(problem, path, networks, factor):
    """By the observed times of some networks, which are so many times those of the table."""
    rows = [
        f'"{network}",decode-8k,mine,,{factor * ms}'
        for network, ms in zip(networks, problem.model.latencies(networks), strict=True)
    ]
    path.write_text("\n".join(["network,workload,program,device,latency_ms", *rows]) + "\n")
    return TableCosts(corrected(problem.model, str(path)))


def test_observed_times_correct_each_batch_too(problem, tmp_path):
    """At the batch of the workload all trials are within the limits, also where networks meet the
    budget by the observed times alone."""
    trials = scored(DENSE + SPARSE, problem)
    costs = costs_by_times(problem, tmp_path / "times.csv", trials.networks, 0.5)
    by_table, observed = trials.latency_ms, costs.model.latencies(trials.networks)
    budgets = [Budget("latency_ms", 1.05 * observed.max()), problem.fitter.budgets[1]]
    assert (by_table > budgets[0].limit).any()
    corrected_problem = dataclasses.replace(
        problem, costs=costs, fitter=Fitter(problem.space, costs, budgets)
    )
    sparse = trials.columns["active_params"] < trials.columns["params"]
    assert within_at(corrected_problem, trials, 1, sparse).all()


def test_times_of_others_are_asked_of_what_fits_alone(problem, tmp_path):
    """The corrected model has no answer for no network."""
    dense = Architecture.parse(DENSE[0])
    costs = costs_by_times(problem, tmp_path / "times.csv", [dense], 1.0)
    fitter = Fitter(problem.space, costs, problem.fitter.budgets)
    large = Architecture.parse("2048: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert fitter.within([dense])[0]
    assert not fitter.within([large])[0]
