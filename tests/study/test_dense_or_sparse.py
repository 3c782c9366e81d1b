"""Both options of an answer, dense and sparse, and where the choice between them turns."""

import dataclasses

import numpy as np
import pytest
from problems import problem_of, trials_of, with_all_batches

from flashnas.architecture import Architecture
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.observations.correction import corrected
from flashnas.reporting.phrases import holds
from flashnas.study.dense_or_sparse import dense_or_sparse
from flashnas.study.full_training import SPARSE_RATE, full_training_hours
from flashnas.study.limits import bounds_of

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
    return problem_of("served", budget_ms=20_000.0, workload="decode-8k", calibration="engine")


@pytest.fixture(scope="module")
def found(problem):
    return dense_or_sparse(problem, problem.scorer, scored(DENSE + SPARSE, problem))


def lowest(problem, notations, costs, memory_gb):
    """The best of some networks within limits, by hand; None where none is."""
    within = [
        network
        for network in map(Architecture.parse, notations)
        if costs.metrics(network)["memory_gb"] <= memory_gb
        and costs.metrics(network)["latency_ms"] <= 20_000
    ]
    return min(within, key=lambda network: problem.scorer.values([network])[0], default=None)


def agrees(problem, turn, dense, sparse):
    if dense is None or sparse is None:
        return turn["difference"] is None
    difference, _ = problem.scorer.posterior([sparse, dense]).difference(0, 1)
    return turn["difference"] == pytest.approx(difference, abs=1e-6) and turn["sd"] > 0


def test_under_each_memory_the_best_of_both_are_compared(problem, found):
    limits = [turn["limit"] for turn in found["by_memory"]]
    assert limits == sorted(limits)
    assert (
        limits[-1] == found["memory_gb"] == pytest.approx(72.0, rel=0.1)
    )  # of an H100, less a tenth
    for turn in found["by_memory"]:
        pair = (lowest(problem, of, problem.costs, turn["limit"]) for of in (DENSE, SPARSE))
        assert agrees(problem, turn, *pair)


def test_at_each_batch_the_best_of_both_that_are_still_in_time_are_compared(problem, found):
    limits = [turn["limit"] for turn in found["by_batch"]]
    assert limits == [1, 2, 4, 8, 16, 32, 64, 128]
    model = problem.model
    for turn in found["by_batch"]:
        workload = dataclasses.replace(model.workload, batch=int(turn["limit"]))
        costs = TableCosts(model.at(workload))
        pair = (lowest(problem, of, costs, found["memory_gb"]) for of in (DENSE, SPARSE))
        assert agrees(problem, turn, *pair)


def test_each_option_states_what_it_costs(problem, found):
    for sort, notations in (("dense", DENSE), ("sparse", SPARSE)):
        side = found[sort]
        network = Architecture.parse(side["notation"])
        assert network == lowest(problem, notations, problem.costs, found["memory_gb"])
        assert (side["params"], side["active_params"]) == (network.params, network.active_params)
        assert (side["active_params"] < side["params"]) == (sort == "sparse")
        assert side["h100_hours"] == full_training_hours(network, 1e11)
    # of equal FLOPs the sparse training takes longer, by the rate that is stated
    sparse = Architecture.parse(SPARSE[0])
    dense_rate = full_training_hours(sparse, 1e11) * found["sparse_rate"]
    assert found["sparse_rate"] == SPARSE_RATE < 1
    assert dense_rate == pytest.approx(
        3 * sparse.flops_per_token(4096) * 1e11 / (0.4 * 989e12) / 3600
    )


@pytest.mark.parametrize("notations", [DENSE, SPARSE])
def test_nothing_is_said_where_all_are_of_one_sort(problem, notations):
    assert dense_or_sparse(problem, problem.scorer, scored(notations, problem)) == {}


def test_the_memory_of_the_device_less_a_tenth_bounds_a_search(problem):
    memory = Budget("memory_gb", 0.9 * problem.model.table.device.memory_bytes / 1e9)
    assert problem.fitter.budgets == [Budget("latency_ms", 20_000.0), memory]
    asked = dataclasses.replace(problem.config, budgets={"memory_gb": 4.0})
    assert bounds_of(asked, problem.costs) == (Budget("memory_gb", 4.0),)
    large = Architecture.parse("2048: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert problem.costs.size("memory_gb", large) > memory.limit
    assert Fitter(problem.space, problem.costs, []).fits_network(large)
    assert not Fitter(problem.space, problem.costs, [memory]).fits_network(large)


def costs_by_times(problem, path, networks, factor):
    """By the observed times of some networks, which are so many times those of the table."""
    rows = [
        f'"{network}",decode-8k,mine,,{factor * ms}'
        for network, ms in zip(networks, problem.costs.latencies(networks), strict=True)
    ]
    path.write_text("\n".join(["network,workload,program,device,latency_ms", *rows]) + "\n")
    return TableCosts(corrected(problem.model, str(path)))


def test_observed_times_correct_each_batch_too(problem, tmp_path):
    """At the batch of the workload the difference is that of the answer, also where networks meet the
    budget by the observed times alone."""
    trials = scored(DENSE + SPARSE, problem)
    costs = costs_by_times(problem, tmp_path / "times.csv", trials.networks, 0.5)
    by_table, observed = trials.latency_ms, np.array(costs.latencies(trials.networks))
    budgets = [Budget("latency_ms", 1.05 * observed.max()), problem.fitter.budgets[1]]
    assert (by_table > budgets[0].limit).any()
    corrected_problem = dataclasses.replace(
        problem, costs=costs, fitter=Fitter(problem.space, costs, budgets)
    )
    found = dense_or_sparse(corrected_problem, problem.scorer, trials)
    first = found["by_batch"][0]
    assert (first["limit"], first["difference"]) == (1, found["difference"])


def test_times_of_others_are_asked_of_what_fits_alone(problem, tmp_path):
    """The corrected model has no answer for no network."""
    dense = Architecture.parse(DENSE[0])
    costs = costs_by_times(problem, tmp_path / "times.csv", [dense], 1.0)
    fitter = Fitter(problem.space, costs, problem.fitter.budgets)
    large = Architecture.parse("2048: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert fitter.fits_network(dense)
    assert not fitter.fits_network(large)


def test_a_network_that_no_batch_fits_is_not_proposed():
    most = problem_of("served", budget_ms=1e9, workload="throughput-32k", calibration="engine")
    large = Architecture.parse("4096: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert not most.fitter.fits_network(large)
    genotype = max(most.space.genotypes, key=lambda g: most.space.architectures(g)[0].params)
    assert most.fitter.fit_width(genotype) == (None, None)


def test_words_name_each_turn_once():
    def turn(limit, difference):
        sd = None if difference is None else 0.05
        return {"limit": limit, "difference": difference, "sd": sd}

    turns = [turn(2, None), turn(4, 0.03), turn(8, -0.05), turn(16, -0.06), turn(72, -0.2)]
    batches = [turn(1, -0.2), turn(2, -0.1), turn(4, 0.1), turn(8, -0.1)]
    assert holds({"by_memory": turns, "by_batch": batches}) == "from 8 GB on and up to batch 2"
    assert holds({"by_memory": turns, "by_batch": []}) == "from 8 GB on"
