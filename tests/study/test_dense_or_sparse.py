"""Both options of an answer, dense and sparse."""

import dataclasses

import pytest
from problems import problem_of, trials_of

from flashnas.architecture import Architecture
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.observations.correction import corrected
from flashnas.study.answer import dense_or_sparse
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


@pytest.fixture(scope="module")
def problem():
    asked = {"workload": "decode-8k", "calibration": "engine", "experts": "any"}
    return problem_of("served", budget_ms=20_000.0, params="..64B", **asked)


@pytest.fixture(scope="module")
def found(problem):
    return dense_or_sparse(problem, scored(DENSE + SPARSE, problem))


def lowest(problem, notations):
    """The best of some networks within the limits, by hand."""
    networks = [Architecture.parse(text) for text in notations]
    within = [each for each in networks if problem.fitter.within([each])[0]]
    return min(within, key=lambda network: problem.scorer.values([network])[0])


def test_each_option_states_what_it_costs(problem, found):
    for sort, notations in (("dense", DENSE), ("sparse", SPARSE)):
        side = found[sort]
        network = Architecture.parse(side["notation"])
        assert network == lowest(problem, notations)
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


def test_times_of_others_are_asked_of_what_fits_alone(problem, tmp_path):
    """The corrected model has no answer for no network."""
    dense = Architecture.parse(DENSE[0])
    (ms,) = problem.model.latencies([dense])
    path = tmp_path / "times.csv"
    path.write_text(f'network,workload,program,device,latency_ms\n"{dense}",decode-8k,mine,,{ms}\n')
    costs = TableCosts(corrected(problem.model, str(path)))
    fitter = Fitter(problem.space, costs, problem.fitter.budgets)
    large = Architecture.parse("2048: 48x(a moe(experts=256,active=1,intermediate=2048))")
    assert fitter.within([dense])[0]
    assert not fitter.within([large])[0]
