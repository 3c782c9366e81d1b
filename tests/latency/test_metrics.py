from cases import cases
from one_line import one_line

from flashnas.base.errors import BudgetError
from flashnas.latency.metrics import METRICS, Budget, of_times


def test_throughput_counts_what_the_workload_is_about():
    assert (
        of_times(99.0, 2.0, 4, 100, 10)["throughput_tok_s"] == 2000.0
    )  # generated tokens of all sequences
    assert of_times(50.0, 0.0, 4, 100, 0)["throughput_tok_s"] == 8000.0  # only reading
    assert of_times(0.0, 0.0, 4, 0, 0)["throughput_tok_s"] == 0.0


def test_a_budget_holds_up_to_its_limit_and_throughput_down_to_it():
    metrics = {"latency_ms": 10.0, "memory_gb": 3.0, "throughput_tok_s": 100.0}
    for name, limit, within in cases("latency", "budgets"):
        assert Budget(name, limit).holds(metrics[name]) is within


def test_a_budget_names_its_metric_and_is_a_positive_number():
    message = one_line(BudgetError, Budget, "tpot", 2)
    assert all(
        word in message
        for word in ("budget metric must be one of", "did you mean 'tpot_ms'", *METRICS)
    )
    for limit in (0, float("nan"), float("inf")):
        assert one_line(BudgetError, Budget, "tpot_ms", limit).startswith(
            f"budget tpot_ms must be a positive number; got {limit}"
        )
